"""Messages to bytes and back: Avro in its single-object encoding.

A message is the marker ``C3 01``, the CRC-64-AVRO fingerprint of the schema it was written with, and the
Avro body (Avro 1.12 specification, "Single-object encoding"). A reader that meets a fingerprint of an older
schema resolves it to its own; the older schemas stay in ``avro/history/``.

Where a schema registry is used (``schemas.registry``), messages begin as it wants them; both beginnings are read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import fastavro
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from schemas.errors import CodecError
from schemas.flat import Flat, flat

MARKER = b"\xc3\x01"
HEADER_BYTES = 10
REGISTRY_MAGIC = b"\x00"
REGISTRY_HEADER_BYTES = 5
NAMESPACE = "org.flowgauge"
NAMES = (
    "PacketBatch",
    "FeatureBatch",
    "Prediction",
    "Label",
    "CostTelemetry",
    "DeadLetter",
    "FlowState",
    "PayloadBatch",
    "PacketPrediction",
    "ModelVersion",
    "FlowPath",
    "PacketFields",
)

Schema = dict[str, Any]


class Framing(Protocol):
    """How messages begin where a registry numbers the schemas: ``00``, the id in four bytes."""

    heads: dict[str, bytes]
    """What a message begins with, by the name of its schema."""

    def written_with(self, schema_id: int) -> tuple[str, Any]:
        """Return (name, parsed schema) of an id; raises CodecError where there is none of ours."""


_framing: Framing | None = None


def use_framing(framing: Framing | None) -> None:
    """Frame all messages of this process so from now on; None: the single-object encoding."""
    global _framing
    _framing = framing


def registry_head(schema_id: int) -> bytes:
    """Return what a message of a registered schema begins with."""
    return REGISTRY_MAGIC + schema_id.to_bytes(4, "big")


@cache
def schema(name: str) -> Schema:
    """Return the current schema of a message by its name, as written in its ``.avsc`` file."""
    text = files("schemas").joinpath("avro", f"{name}.avsc").read_text(encoding="utf-8")
    loaded: Schema = json.loads(text)
    return loaded


def fingerprint_of(raw: Schema) -> bytes:
    """Return the CRC-64-AVRO fingerprint of a schema, little-endian as the encoding wants it."""
    canonical = to_parsing_canonical_form(parse_schema(raw))
    return bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))


@cache
def _writer(name: str) -> tuple[bytes, Any]:
    raw = schema(name)
    return MARKER + fingerprint_of(raw), parse_schema(raw)


@cache
def _flat(name: str) -> Flat | None:
    return flat(schema(name))


@cache
def _arrays(name: str) -> tuple[str, ...]:
    """Return the fields of the named schema that are arrays."""
    fields = schema(name)["fields"]
    return tuple(f["name"] for f in fields if isinstance(f["type"], dict) and f["type"]["type"] == "array")


@cache
def _readers() -> dict[bytes, tuple[str, Any]]:
    """Return (name, parsed schema) by message head, for every schema ever written."""
    known = {_writer(name)[0]: (name, _writer(name)[1]) for name in NAMES}
    history = files("schemas").joinpath("avro", "history")
    if history.is_dir():
        for old in history.iterdir():
            raw = json.loads(old.read_text(encoding="utf-8"))
            known[MARKER + fingerprint_of(raw)] = (raw["name"], parse_schema(raw))
    return known


def reader_of(raw: Schema) -> tuple[str, Any]:
    """Return (name, parsed) of a schema that a message was written with: one ever written, or a later one of ours.

    Raises:
        CodecError: the schema is of no message of this project.
    """
    try:
        found = _readers().get(MARKER + fingerprint_of(raw))
        if found is not None:
            return found
        parsed = parse_schema(raw)
        namespace, _, name = parsed["name"].rpartition(".")
        if namespace == NAMESPACE and name in NAMES:
            return name, parsed
    except Exception as error:  # somebody else's schema may be wrong in any way
        raise CodecError(f"not a schema: {type(error).__name__}: {error}") from error
    raise CodecError(f"the schema {raw.get('name')} is none of this project's")


def head_of(name: str) -> bytes:
    """Return what messages of the named schema begin with in this process."""
    head = _writer(name)[0]
    return head if _framing is None else _framing.heads.get(name, head)


def encode(name: str, record: Mapping[str, Any]) -> bytes:
    """Encode a record as a message of the named schema; arrays of numbers may be int64 arrays.

    Raises:
        CodecError: a field is missing or of another type.
    """
    head, fast = head_of(name), _flat(name)
    out = io.BytesIO()
    out.write(head)
    try:
        if fast is not None and (message := fast.write(head, record)) is not None:
            return message
        fastavro.schemaless_writer(out, _writer(name)[1], record)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CodecError(f"not a {name}: {error}") from error
    return out.getvalue()


def _written_with(data: bytes) -> tuple[str, Any, int]:
    """Return (name, parsed schema) of a message, and where its body begins."""
    if data[:1] == REGISTRY_MAGIC and len(data) >= REGISTRY_HEADER_BYTES:
        schema_id = int.from_bytes(data[1:REGISTRY_HEADER_BYTES], "big")
        if _framing is None:
            raise CodecError(
                f"written with schema id {schema_id} of a schema registry, but bus.registry_url is not set"
            )
        return *_framing.written_with(schema_id), REGISTRY_HEADER_BYTES
    if len(data) < HEADER_BYTES or data[:2] != MARKER:
        raise CodecError(f"not a Flowgauge message: {len(data)} bytes without the marker of one")
    found = _readers().get(bytes(data[:HEADER_BYTES]))
    if found is None:
        raise CodecError(f"written with an unknown schema, fingerprint {data[2:HEADER_BYTES].hex()}")
    return *found, HEADER_BYTES


def name_of(data: bytes) -> str:
    """Return the name of the schema that a message was written with; raises CodecError if unknown."""
    return _written_with(data)[0]


def decode(name: str, data: bytes) -> dict[str, Any]:
    """Decode a message of the named schema, also one written with another version of it.

    Raises:
        CodecError: the bytes are not such a message.
        BusError: its schema is known only to a registry that does not answer.
    """
    record = decode_arrays(name, data)
    for field in _arrays(name):
        if not isinstance(record[field], list):
            record[field] = record[field].tolist()
    return record


def decode_arrays(name: str, data: bytes) -> dict[str, Any]:
    """Decode as ``decode`` does, but leave arrays of numbers as int64 arrays where they came so out of the message.

    Raises:
        CodecError, BusError: as ``decode``.
    """
    actual, written_with, begin = _written_with(data)
    if actual != name:
        raise CodecError(f"expected a {name}, found a {actual}")
    fast = _flat(name) if written_with is _writer(name)[1] and type(data) is bytes else None
    if fast is not None and (plain := fast.read(data, begin)) is not None:
        return plain
    body = io.BytesIO(data)
    body.seek(begin)
    try:
        record = fastavro.schemaless_reader(body, written_with, _writer(name)[1])
    except Exception as error:  # hostile bytes raise whatever they hit first inside the decoder
        raise CodecError(f"a broken {name}: {type(error).__name__}: {error}") from error
    if body.tell() != len(data):
        raise CodecError(f"a broken {name}: {len(data) - body.tell()} bytes follow its end")
    if not isinstance(record, dict):
        raise CodecError(f"a broken {name}: not a record")
    return record
