"""Brokers for development, the demo and tests: an embedded mock cluster, and real Apache Kafka without Docker."""
