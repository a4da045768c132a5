"""Values that are encoded beforehand are those of the codec."""

from __future__ import annotations

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro_writer import avro_boolean, avro_integer, avro_label, avro_text


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (0, b"\x00"),
        (-1, b"\x01"),
        (63, b"\x7e"),
        (64, b"\x80\x01"),
        (-(2**63), b"\xff" * 9 + b"\x01"),
        (2**63 - 1, b"\xfe" + b"\xff" * 8 + b"\x01"),
    ],
)
def test_integers_take_one_to_ten_bytes(value: int, octets: bytes) -> None:
    assert avro_integer(value) == octets


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=100), st.none() | st.text(), st.booleans())
def test_values_are_those_of_the_library(number: int, text: str, label: str | None, truth: bool) -> None:
    pairs = [
        ("long", number, avro_integer(number)),
        ("string", text, avro_text(text)),
        (["null", "string"], label, avro_label(label)),
        ("boolean", truth, avro_boolean(truth)),
    ]
    for schema, value, written in pairs:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, value)  # type: ignore[arg-type]
        assert written == out.getvalue()
