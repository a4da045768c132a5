"""Brokers for development, the demo and tests: an embedded mock cluster, and Apache Kafka without Docker."""
