"""The contract: Avro schemas, columns, flow key, partition function and topic names.

Everything that crosses the bus is described here, and nothing here knows Kafka or Faust.
"""
