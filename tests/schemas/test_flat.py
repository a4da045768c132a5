"""Plain records: what the library for Avro reads and writes, and nothing else."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.codec import HEADER_BYTES, NAMES, decode, encode, schema
from schemas.errors import CodecError
from schemas.flat import Flat, flat
from tests.schemas.messages import message

PLAIN = [name for name in NAMES if flat(schema(name)) is not None]
EVERY: dict[str, Any] = {
    "type": "record",
    "name": "Every",
    "fields": [
        {"name": "number", "type": "int", "default": 3},
        {"name": "yes", "type": "boolean", "default": True},
        {"name": "long", "type": "long"},
        {"name": "octets", "type": "bytes"},
        {"name": "text", "type": "string"},
        {"name": "texts", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "longs", "type": {"type": "array", "items": "long"}},
    ],
}
PARSED = fastavro.parse_schema(EVERY)
PLAINLY = {"long": 5, "octets": b"", "text": "x", "longs": np.arange(3)}
LONGS = st.integers(-(1 << 63), (1 << 63) - 1)
RECORDS = st.fixed_dictionaries(
    {
        "number": st.integers(-(1 << 31), (1 << 31) - 1),
        "yes": st.booleans(),
        "long": LONGS | st.integers(-70, 70),
        "octets": st.binary(max_size=200),
        "text": st.text(max_size=200),
        "texts": st.lists(st.text(max_size=5), max_size=70),
        "longs": st.lists(LONGS | st.integers(-70, 70), max_size=70),
    }
)


def every() -> Flat:
    made = flat(EVERY)
    assert made is not None
    return made


def library(record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PARSED, record)
    return out.getvalue()


def with_lists(record: dict[str, Any] | None) -> dict[str, Any] | None:
    if record is not None:
        record["longs"] = record["longs"].tolist()
    return record


def test_the_messages_of_most_packets_and_rows_are_plain() -> None:
    assert {"PacketBatch", "FeatureBatch", "PayloadBatch", "FlowState"} <= set(PLAIN)


@settings(max_examples=300, deadline=None)
@given(record=RECORDS, head=st.binary(max_size=10))
def test_records_are_read_and_written_as_the_library_does(record: dict[str, Any], head: bytes) -> None:
    data = head + library(record)
    assert with_lists(every().read(data, len(head))) == record
    written = every().write(head, {**record, "longs": np.array(record["longs"], np.int64)})
    assert written == data or (written is None and not record["text"].isascii())


def test_a_field_left_out_is_written_as_its_default() -> None:
    needed = {"long": 5, "octets": b"", "text": "x"}
    made = every().write(b"", {**needed, "longs": np.arange(3)})
    assert made == library({**needed, "longs": [0, 1, 2]})
    assert every().write(b"", needed) is None


@pytest.mark.parametrize(
    "change",
    [
        {"number": 1 << 31},
        {"number": True},
        {"number": np.int64(1)},
        {"long": 1 << 63},
        {"long": 1.0},
        {"yes": 1},
        {"octets": "x"},
        {"octets": None},
        {"text": b"x"},
        {"longs": [1]},
        {"longs": np.ones(1)},
        {"longs": np.ones((1, 1), np.int64)},
    ],
)
def test_what_is_not_plain_is_left_to_the_library(change: dict[str, Any]) -> None:
    assert every().write(b"", {**PLAINLY, **change}) is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x02\x06\x02\x08\x00", id="two blocks"),
        pytest.param(b"\x03\x04\x06\x08\x00", id="a block with its size"),
        pytest.param(b"\x04\x06\x88\x00\x00", id="a number longer than it need be"),
    ],
)
def test_other_ways_to_write_an_array_are_read(body: bytes) -> None:
    """Ours never writes them, another program may."""
    record = {"number": 1, "yes": False, "long": 5, "octets": b"", "text": "x", "texts": [], "longs": [3, 4]}
    data = library({**record, "longs": []})[:-1] + body
    assert fastavro.schemaless_reader(io.BytesIO(data), PARSED, None) == record
    assert with_lists(every().read(data, 0)) in (record, None)


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, -1, -(1 << 63), 3])
def test_lengths_beyond_the_end_are_not_plain(size: int) -> None:
    none = {"octets": b"", "text": "", "longs": []}
    length, head = library({"long": size, **none})[2:-4], library({"long": 0, **none})[:3]
    assert every().read(head + b"\0\0\0\0", 0) is not None
    for broken in (length, b"\0" + length, b"\0\0\x02" + length, b"\0\0\0" + length):
        assert every().read(head + broken, 0) is None
        assert every().read(head + broken + b"\0" * 2, 0) is None


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(PLAIN), drawn=st.data())
def test_damaged_messages_are_read_as_the_library_reads_them(name: str, drawn: st.DataObject) -> None:
    data = bytearray(message(name))
    for _ in range(drawn.draw(st.integers(0, 3))):
        at = drawn.draw(st.integers(HEADER_BYTES, len(data) - 1))
        act = drawn.draw(st.sampled_from(["flip", "cut", "insert", "huge"]))
        if act == "flip":
            data[at] ^= drawn.draw(st.integers(1, 255))
        elif act == "cut":
            del data[at : at + drawn.draw(st.integers(1, min(20, len(data) - at)))]
        elif act == "huge":
            data[at : at + 2] = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        else:
            data[at:at] = drawn.draw(st.binary(min_size=1, max_size=5))
        if len(data) <= HEADER_BYTES:
            return
    assert outcome(name, bytes(data)) == outcome(name, bytearray(data))


def outcome(name: str, data: bytes | bytearray) -> Any:
    """Return the record or the error; what is not ``bytes`` goes to the library."""
    try:
        return decode(name, data)  # type: ignore[arg-type]
    except CodecError as error:
        return str(error)


@pytest.mark.parametrize("name", PLAIN)
def test_messages_are_the_librarys_octet_by_octet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = codec.decode_arrays(name, message(name))
    lists = decode(name, message(name))
    assert encode(name, record) == encode(name, lists) == message(name)
    monkeypatch.setattr(codec, "_flat", lambda name: None)
    assert encode(name, lists) == message(name)
    assert decode(name, message(name)) == lists
