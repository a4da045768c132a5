"""The schemas and messages as Apache Avro's own Python package sees them."""

from __future__ import annotations

import io
import json

import avro.io
import avro.schema
import pytest

from schemas.codec import HEADER_BYTES, NAMES, decode, schema
from tests.schemas.messages import message


@pytest.mark.parametrize("name", NAMES)
def test_the_avro_package_reads_what_is_written(name: str) -> None:
    parsed = avro.schema.parse(json.dumps(schema(name)))
    assert parsed.fullname == f"org.flowgauge.{name}"
    body = io.BytesIO(message(name)[HEADER_BYTES:])
    record = avro.io.DatumReader(parsed).read(avro.io.BinaryDecoder(body))
    assert body.read() == b""
    assert record == decode(name, message(name))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_avro_package_writes_is_read(name: str) -> None:
    parsed = avro.schema.parse(json.dumps(schema(name)))
    out = io.BytesIO()
    avro.io.DatumWriter(parsed).write(decode(name, message(name)), avro.io.BinaryEncoder(out))
    assert decode(name, message(name)[:HEADER_BYTES] + out.getvalue()) == decode(name, message(name))
