"""Reads feature rows with confluent-kafka, fastavro and NumPy alone: nothing of Flowgauge but its schema file.

    python read_features.py --bus 127.0.0.1:9092 --topic features.window

A message is the marker C3 01, the eight-byte fingerprint of its schema, and the Avro body. Columns of integers stand
packed in ``packed``, in the order of the schema's fields whose ``rows`` are ``row_count`` (then ``service_rows``, where
services are named); behind them, for the rows that are not of IPv4, what addresses have beyond four octets; behind
these the features. ``packing`` holds three numbers for each of these columns.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from confluent_kafka import Consumer
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMA_FILE = Path(__file__).resolve().parent.parent / "schemas" / "avro" / "FeatureBatch.avsc"
QUIET_S = 5.0
WORDS = 3
"""Numbers of four octets in an IPv6 address beyond its first."""


class FeatureReader:
    """Turns messages of ``features.…`` topics into columns."""

    def __init__(self, schema_file: Path = SCHEMA_FILE) -> None:
        self._schema: Any = fastavro.schema.load_schema(schema_file)
        print_of = fingerprint(to_parsing_canonical_form(self._schema), "CRC-64-AVRO")
        self._head = b"\xc3\x01" + bytes.fromhex(print_of)
        fields = [field for field in self._schema["fields"] if field["name"] != "features"]
        self._dtypes = {field["name"]: field["dtype"] for field in fields if "dtype" in field}
        self._rows = [field["name"] for field in fields if field.get("rows") == "row_count"]
        self._services = [field["name"] for field in fields if field.get("rows") == "service_rows"]

    def read(self, message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the record and its columns by name; raises ValueError for what is no such message.

        Addresses are (rows, 16) uint8, zeros behind the four octets of IPv4; ``features`` is (rows, names) float32.
        """
        if message[:10] != self._head:
            raise ValueError(f"not written with {SCHEMA_FILE.name}: {message[:10].hex()}")
        record: Any = fastavro.schemaless_reader(io.BytesIO(message[10:]), self._schema, self._schema)
        rows, octets = record["row_count"], record["packed"]
        numbers = np.array(record["packing"], np.int64).reshape(-1, 3)
        names = self._rows + self._services * bool(record["service_rows"])
        whole, octets = unpacked(numbers[: len(names)], octets, rows)
        columns = dict(zip(names, whole, strict=True))
        numbers = numbers[len(names) :]
        longer = columns["ip_version"] != 4
        further, octets = unpacked(numbers[: 2 * WORDS], octets, int(longer.sum()))
        for at, name in enumerate(("source_address", "destination_address")):
            words = np.zeros((rows, 1 + WORDS), ">u4")
            words[:, 0] = columns[name]
            words[longer, 1:] = further[WORDS * at : WORDS * (at + 1)].T
            columns[name] = words.view(np.uint8)
        for name in ("start_ns", "end_ns"):
            columns[name] = columns[name] + columns["interval_start_ns"]
        features, _ = unpacked(numbers[2 * WORDS :], octets, rows)
        table = {name: column.astype(self._dtypes[name]) for name, column in columns.items()}
        table["features"] = as_floats(features, numbers[2 * WORDS :, 0])
        return record, table


def unpacked(numbers: np.ndarray, octets: bytes, rows: int) -> tuple[np.ndarray, bytes]:
    """Return packed columns as (columns, rows) int64, and the octets behind them.

    A column's numbers are its kind (4 * bits of a code + 2 * whole + zero), a base and a step. Code c means base +
    step * c modulo 2^64; where ``zero`` is set, 0 means 0 and c base + step * (c - 1).
    """
    columns = np.zeros((len(numbers), rows), np.uint64)
    for column, (kind, base, step) in zip(columns, numbers, strict=True):
        bits, zero = int(kind) >> 2, int(kind) & 1
        size = (bits * rows + 7) // 8
        each = np.unpackbits(np.frombuffer(octets[:size], np.uint8), bitorder="little")[: bits * rows]
        weights = np.uint64(1) << np.arange(bits, dtype=np.uint64)
        codes = (each.reshape(rows, bits) * weights).sum(axis=1, dtype=np.uint64)
        column[:] = base.astype(np.uint64) + step.astype(np.uint64) * (codes - np.uint64(zero))
        if zero:
            column[codes == 0] = 0
        octets = octets[size:]
    return columns.view(np.int64), octets


def as_floats(values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return columns (columns, rows) as a matrix (rows, columns): whole numbers, or the 32 bits of a float32."""
    is_whole = (kinds & 2).astype(bool)[:, None]
    floats = np.ascontiguousarray(values.astype(np.uint32)).view(np.float32)
    return np.where(is_whole, values.astype(np.float32), floats).T


def main() -> int:
    """Print a line for each message from the beginning of the topic; end when none came for a while."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bus", default="127.0.0.1:9092", help="bootstrap servers")
    parser.add_argument("--topic", default="features.window")
    parser.add_argument(
        "--group", default="example-features", help="consumer group: where it left off is kept"
    )
    options = parser.parse_args()
    consumer = Consumer(
        {"bootstrap.servers": options.bus, "group.id": options.group, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([options.topic])
    reader = FeatureReader()
    try:
        while (message := consumer.poll(QUIET_S)) is not None:
            if message.error():
                print(message.error(), file=sys.stderr)
                return 1
            record, table = reader.read(message.value())
            means = dict(zip(record["feature_names"], table["features"].mean(axis=0).tolist(), strict=True))
            told = ", ".join(f"{name} {mean:.4g}" for name, mean in list(means.items())[:4])
            print(f"{record['row_count']} rows of {record['probe']}, on average {told}")
    except KeyboardInterrupt:
        return 130
    finally:
        consumer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
