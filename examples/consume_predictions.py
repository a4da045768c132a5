"""Reads predictions with confluent-kafka and fastavro alone: nothing of Flowgauge but its schema file.

    python consume_predictions.py --bus 127.0.0.1:9092

A message is the marker C3 01, the eight-byte fingerprint of its schema, and the Avro body.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMA_FILE = Path(__file__).resolve().parent.parent / "schemas" / "avro" / "Prediction.avsc"
QUIET_S = 5.0


class PredictionReader:
    """Turns messages of ``predictions.flow`` into dicts."""

    def __init__(self, schema_file: Path = SCHEMA_FILE) -> None:
        self._schema: Any = fastavro.schema.load_schema(schema_file)
        print_of = fingerprint(to_parsing_canonical_form(self._schema), "CRC-64-AVRO")
        self._head = b"\xc3\x01" + bytes.fromhex(print_of)

    def read(self, message: bytes) -> dict[str, Any]:
        """Return the record; raises ValueError for what is no prediction of this schema."""
        if message[:10] != self._head:
            raise ValueError(f"not written with {SCHEMA_FILE.name}: {message[:10].hex()}")
        record: Any = fastavro.schemaless_reader(io.BytesIO(message[10:]), self._schema, self._schema)
        return record


def main() -> int:
    """Print predictions from the beginning of the topic; end when none came for a while, or on Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bus", default="127.0.0.1:9092", help="bootstrap servers")
    parser.add_argument("--topic", default="predictions.flow")
    parser.add_argument(
        "--group", default="example-consumer", help="consumer group: where it left off is kept"
    )
    options = parser.parse_args()

    consumer = Consumer(
        {"bootstrap.servers": options.bus, "group.id": options.group, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([options.topic])
    reader = PredictionReader()
    seen: dict[str, dict[str, Any]] = {}
    unreadable = 0
    try:
        while (message := consumer.poll(QUIET_S)) is not None:
            if message.error():
                print(message.error(), file=sys.stderr)
                return 1
            try:
                record = reader.read(message.value())
            except ValueError as error:
                unreadable += 1
                print(f"partition {message.partition()} offset {message.offset()}: {error}", file=sys.stderr)
                continue
            # A repeat after a crash has the same id: it overwrites.
            seen[record["prediction_id"]] = record
            print(
                f"{record['flow_id']} depth {record['depth']}: {record['label']} {record['confidence']:.0%}"
            )
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()
    print(f"{len(seen)} predictions, {unreadable} messages that are none", file=sys.stderr)
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
