from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.codec import HEADER_BYTES, MARKER, NAMES, decode, encode, fingerprint_of, name_of, schema
from schemas.errors import CodecError
from schemas.features import decode_feature_batch
from schemas.flat import flat
from schemas.packets import decode_packet_batch
from schemas.payloads import decode_payload_batch
from tests.schemas.messages import RECORDS, message


@pytest.mark.parametrize("name", NAMES)
def test_a_message_comes_back_whole(name: str) -> None:
    data = message(name)
    assert name_of(data) == name
    record = decode(name, data)
    assert encode(name, record) == data
    if name in RECORDS:
        assert record == RECORDS[name]


def test_a_message_begins_with_the_marker_and_the_schemas_fingerprint() -> None:
    data = message("Label")
    assert data[:2] == MARKER == b"\xc3\x01"
    assert data[2:10] == fingerprint_of(schema("Label"))


def test_the_fingerprint_is_that_of_the_avro_specification() -> None:
    # From Avro's own share/test/data/schema-tests.txt.
    assert fingerprint_of("int")[::-1].hex() == "7275d51a3f395c8f"  # type: ignore[arg-type]
    assert fingerprint_of("string")[::-1].hex() == "8f014872634503c7"  # type: ignore[arg-type]


def test_schemas_have_fingerprints_of_their_own() -> None:
    assert len({fingerprint_of(schema(name)) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes without the marker"),
        (b"\xc3\x01", "without the marker"),
        (b"{}" * 20, "without the marker"),
        (MARKER + bytes(8) + b"x", "unknown schema, fingerprint 0000000000000000"),
    ],
)
def test_other_bytes_are_told_apart(data: bytes, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        name_of(data)
    with pytest.raises(CodecError, match=said):
        decode("Label", data)


def test_a_message_of_another_schema_is_named() -> None:
    with pytest.raises(CodecError, match="expected a Prediction, found a Label"):
        decode("Prediction", message("Label"))


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_message_is_an_error_wherever_it_is_cut(name: str) -> None:
    data = message(name)
    for size in range(len(data)):
        with pytest.raises(CodecError):
            decode(name, data[:size])


@pytest.mark.parametrize("name", NAMES)
def test_bytes_behind_the_end_are_an_error(name: str) -> None:
    with pytest.raises(CodecError, match="1 bytes follow its end"):
        decode(name, message(name) + b"\0")


@pytest.mark.parametrize(
    "change",
    [
        {"flow_id": 5},
        {"flow_id": None},
        {"start_ns": "now"},
        {"start_ns": 1 << 63},
        {"start_ns": None},
    ],
)
def test_a_record_of_the_wrong_types_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match="not a Label"):
        encode("Label", {**RECORDS["Label"], **change})


def test_a_record_without_a_field_is_an_error() -> None:
    record = {k: v for k, v in RECORDS["Label"].items() if k != "flow_id"}
    with pytest.raises(CodecError, match="not a Label"):
        encode("Label", record)


READERS: dict[str, Callable[[bytes], object]] = {
    **{name: partial(decode, name) for name in NAMES},
    "PacketBatch": decode_packet_batch,
    "FeatureBatch": decode_feature_batch,
    "PayloadBatch": decode_payload_batch,
}


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(NAMES), drawn=st.data())
def test_damaged_messages_are_codec_errors_or_messages(name: str, drawn: st.DataObject) -> None:
    data = bytearray(message(name))
    for _ in range(drawn.draw(st.integers(1, 5))):
        at = drawn.draw(st.integers(HEADER_BYTES, len(data)))
        act = drawn.draw(st.sampled_from(["flip", "cut", "insert", "huge"]))
        if act == "flip" and at < len(data):
            data[at] ^= drawn.draw(st.integers(1, 255))
        elif act == "cut":
            del data[at : at + drawn.draw(st.integers(1, 20))]
        elif act == "huge":  # a length near the largest
            data[at : at + 2] = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        else:
            data[at:at] = drawn.draw(st.binary(min_size=1, max_size=5))
    try:
        READERS[name](bytes(data))
    except CodecError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(NAMES), body=st.binary(max_size=300))
def test_any_body_is_a_codec_error_or_a_message(name: str, body: bytes) -> None:
    with suppress(CodecError):
        READERS[name](MARKER + fingerprint_of(schema(name)) + body)


def evolved(name: str) -> dict[str, Any]:
    """Return a schema with a field added, as a later version has it."""
    later = deepcopy(schema(name))
    later["fields"].insert(2, {"name": "added", "type": ["null", "string"], "default": None, "doc": "New."})
    return later


@pytest.mark.parametrize("name", NAMES)
def test_a_later_reader_reads_todays_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As decode does once the later schema is current and today's is in the history."""
    data, today = message(name), codec._readers()
    later = fastavro.parse_schema(evolved(name))
    known = {**today, MARKER + fingerprint_of(evolved(name)): (name, later)}
    written, before = codec._writer, decode(name, data)
    monkeypatch.setattr(codec, "_readers", lambda: known)
    monkeypatch.setattr(
        codec,
        "_writer",
        lambda n: (MARKER + fingerprint_of(evolved(n)), later) if n == name else written(n),
    )
    plain = codec._flat
    monkeypatch.setattr(codec, "_flat", lambda n: flat(evolved(n)) if n == name else plain(n))
    record = decode(name, data)
    assert record.pop("added") is None
    assert record == before
    assert decode(name, encode(name, {**before, "added": "x"}))["added"] == "x"


def test_schemas_travel_as_they_are_written() -> None:
    for name in NAMES:
        raw = schema(name)
        assert raw["name"] == name
        assert raw["namespace"] == "org.flowgauge"
        assert raw["doc"]
        assert raw["fields"][0]["name"] == "schema_version"
        for field in raw["fields"]:
            assert field["doc"].strip(), f"{name}.{field['name']} says nothing"
        assert json.loads(json.dumps(raw)) == raw
