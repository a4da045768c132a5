"""Columns of the schemas, and the checks that make packet and feature batches safe for kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode, encode, schema
from schemas.columns import Block, columns_of, pack, unpack
from schemas.errors import CodecError
from schemas.features import COLUMNS as FEATURE_COLUMNS
from schemas.features import (
    ROW_COLUMNS,
    SERVICE_COLUMNS,
    FeatureBatch,
    FlowEndReason,
    decode_feature_batch,
)
from schemas.packed_rows import PACKED
from schemas.packets import (
    COLUMNS,
    FLOW_COLUMNS,
    LATEST_NS,
    MAX_PACKETS,
    PACKET_COLUMNS,
    PacketBatch,
    decode_packet_batch,
    empty_columns,
    join_names,
    split_names,
)
from tests.schemas.messages import message
from tests.streams.made import FLOWS, Flow, Made
from tests.streams.made import columns_of as made_columns


def test_every_column_is_described_little_endian_with_unit_and_rows() -> None:
    for name in ("PacketBatch", "FeatureBatch", "PayloadBatch"):
        fields = {f["name"]: f for f in schema(name)["fields"]}
        for c in columns_of(schema(name)):
            field = fields[c.name]
            assert field["type"] == "bytes"
            assert field["dtype"][0] in "<|"
            assert field["unit"]
            assert fields[field["rows"]]["type"] == "int"
            assert c.width_field is None or fields[c.width_field]["type"] == "int"
            assert (c.dtype.base, c.dtype.shape) == (c.element, c.width)
            assert c.row_bytes == c.dtype.itemsize
    assert len(FLOW_COLUMNS) + len(PACKET_COLUMNS) == len(COLUMNS)
    assert sum(c.row_bytes for c in PACKET_COLUMNS) == 21


@pytest.mark.parametrize("c", [*COLUMNS, *FEATURE_COLUMNS], ids=lambda c: c.name)
def test_pack_and_unpack_are_inverse(c: Any) -> None:
    width = c.width if c.width_field is None else (3,)
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 100, (5, *width)).astype(c.element)
    record: dict[Any, Any] = {**pack({c.name: raw}, [c]), c.rows: 5, c.width_field: 3}
    (back,) = unpack(record, [c]).values()
    assert back.dtype == c.element
    assert back.dtype.byteorder in "=|<"
    assert np.array_equal(back, raw)
    assert not back.flags.writeable
    record[c.name] = record[c.name][:-1]
    with pytest.raises(CodecError, match=f"column {c.name}: .* bytes are not 5 rows of"):
        unpack(record, [c])


def test_values_are_cast_and_strides_do_not_matter() -> None:
    (c,) = (c for c in COLUMNS if c.name == "octets")
    wide = np.arange(10, dtype=">i8")[::2]
    assert pack({"octets": wide}, [c])["octets"] == np.array([0, 2, 4, 6, 8], "<u4").tobytes()


def broken(name: str, **changes: Any) -> bytes:
    return encode(name, {**decode(name, message(name)), **changes})


@pytest.mark.parametrize("column", [c.name for c in COLUMNS])
def test_packet_columns_of_another_length_are_refused(column: str) -> None:
    raw = decode("PacketBatch", message("PacketBatch"))[column]
    for wrong in (raw[:-1], raw + b"\0", b"", raw * 2):
        with pytest.raises(CodecError, match=f"column {column}: "):
            decode_packet_batch(broken("PacketBatch", **{column: wrong}))


@pytest.mark.parametrize("column", [c.name for c in FEATURE_COLUMNS])
def test_plain_feature_columns_of_another_length_are_refused(column: str) -> None:
    """Batches were not packed once."""
    plain: dict[str, Any] = {
        **pack(decode_feature_batch(message("FeatureBatch")).columns, FEATURE_COLUMNS),
        "service_rows": 0,
    }
    assert decode_feature_batch(broken("FeatureBatch", packing=[], **plain)).rows == 2
    for wrong in (plain[column][:-1], plain[column] + b"\0", b"", plain[column] * 2):
        with pytest.raises(CodecError, match=f"column {column}: "):
            decode_feature_batch(broken("FeatureBatch", packing=[], **{**plain, column: wrong}))


def test_packed_feature_columns_of_another_length_are_refused() -> None:
    record = decode("FeatureBatch", message("FeatureBatch"))
    packing, packed = record["packing"], record["packed"]
    for wrong in (packed[:-1], packed + b"\0", b"", packed * 2, packed[:7]):
        with pytest.raises(CodecError, match=r"bytes are not .* packed columns of"):
            decode_feature_batch(broken("FeatureBatch", packed=wrong))
    for numbers, said in (
        (packing[:-3], "packed columns for 3 features"),
        ([*packing, 0, 0, 0], "packed columns for 3 features"),
        (packing[:-1], "the numbers of packed columns"),
        ([-1, *packing[1:]], "of another form"),
        ([4 * 64 + 4, *packing[1:]], "of another form"),
    ):
        with pytest.raises(CodecError, match=said):
            decode_feature_batch(broken("FeatureBatch", packing=numbers))


@pytest.mark.parametrize("of", ["first", "address", "feature"])
def test_packed_columns_of_another_form_are_refused_wherever_they_stand(of: str) -> None:
    packing = decode("FeatureBatch", message("FeatureBatch"))["packing"]
    at = {"first": 0, "address": 3 * len(PACKED), "feature": -3}[of]
    for kind in (-1, 4 * 64 + 4, (1 << 63) - 1, -(1 << 63)):
        wrong = list(packing)
        wrong[at] = kind
        with pytest.raises(CodecError, match="of another form"):
            decode_feature_batch(broken("FeatureBatch", packing=wrong))


def test_octets_of_longer_addresses_are_counted() -> None:
    """Of rows that are of IPv4 there are none, whatever the numbers of those columns say."""
    record = decode("FeatureBatch", message("FeatureBatch"))
    at = 3 * PACKED.index("ip_version")
    assert record["row_count"] == 2
    for base, longer in ((4, 0), (6, 2)):
        packing = [0, 0, 1] * (len(record["packing"]) // 3)
        packing[at : at + 3] = [0, base, 1]
        packing[3 * len(PACKED)] = 4 * 32
        changed = {"packing": packing, "service_rows": 2, "texts": b"\n", "texts_octets": 1}
        data = broken("FeatureBatch", packed=bytes(4 * longer), **changed)
        assert decode_feature_batch(data).rows == 2
        with pytest.raises(CodecError, match="bytes are not"):
            decode_feature_batch(broken("FeatureBatch", packed=bytes(4 * longer + 1), **changed))


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_columns_in_one_buffer_are_like_any_others(rows: int) -> None:
    block = Block(ROW_COLUMNS)
    views = block.views(block.empty(rows), rows)
    assert list(views) == [c.name for c in ROW_COLUMNS]
    for c in ROW_COLUMNS:
        view = views[c.name]
        assert (view.dtype, view.shape) == (c.element, (rows, *c.width))
        assert view.flags.c_contiguous
        assert view.flags.aligned
        view[:] = 1
    assert all((view == 1).all() for view in views.values())


def test_rows_without_bits_cannot_ask_for_any_amount_of_memory() -> None:
    packing = [0, 1, 1] * len(decode("FeatureBatch", message("FeatureBatch"))["packing"][::3])
    for rows in (1 << 30, -1):
        changes = {"packing": packing, "packed": b"", "row_count": rows, "service_rows": rows}
        with pytest.raises(CodecError, match=f"packed columns of {rows} rows"):
            decode_feature_batch(broken("FeatureBatch", **changes))


def remade(**changes: Any) -> bytes:
    columns = made_columns([Made(1, FLOWS[i % 2], i % 2) for i in range(6)])
    for name, (at, value) in changes.items():
        columns[name][at] = value
    return PacketBatch("p", 1, 0, 1, 0, 0, columns).encode()


@pytest.mark.parametrize("at", [0, 3, 5])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("flow_index", 2, "points past the flow directory"),
        ("flow_index", 65535, "points past the flow directory"),
        ("direction", 2, "direction other than 0 and 1"),
        ("direction", 255, "direction other than 0 and 1"),
        ("time_ns", -1, "before 1970"),
        ("time_ns", -(1 << 63), "before 1970"),
        ("time_ns", LATEST_NS + 1, "after 2116"),
        ("time_ns", (1 << 63) - 1, "after 2116"),
    ],
)
def test_values_out_of_range_are_refused(at: int, column: str, value: int, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        decode_packet_batch(remade(**{column: (at, value)}))


@pytest.mark.parametrize("version", [0, 5, 7, 255])
@pytest.mark.parametrize("at", [0, 1])
def test_ip_versions_other_than_4_and_6_are_refused(at: int, version: int) -> None:
    with pytest.raises(CodecError, match="IP version other than 4 and 6"):
        decode_packet_batch(remade(ip_version=(at, version)))


def test_values_at_the_edges_are_taken() -> None:
    for change in (
        {"time_ns": (0, 0)},
        {"time_ns": (5, LATEST_NS)},
        {"flow_index": (0, 1)},
        {"ip_version": (0, 6)},
    ):
        assert decode_packet_batch(remade(**change)).packets == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe": ""}, "without the name of its probe"),
        ({"partition": -1}, "partition -1 of 4"),
        ({"partition": 4}, "partition 4 of 4"),
        ({"partitions": 0}, "of 0"),
        ({"sequence": -1}, "sequence -1"),
        ({"packet_count": -1}, "column|packets"),
        ({"flow_count": -1}, "column"),
    ],
)
def test_heads_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CodecError, match=said):
        decode_packet_batch(broken("PacketBatch", **changes))


def test_a_batch_of_too_many_packets_or_more_flows_than_packets_is_refused() -> None:
    full = PacketBatch("p", 1, 0, 1, 0, 0, made_columns([Made(1)] * MAX_PACKETS))
    assert decode_packet_batch(full.encode()).packets == MAX_PACKETS
    long = PacketBatch("p", 1, 0, 1, 0, 0, made_columns([Made(1)] * (MAX_PACKETS + 1)))
    with pytest.raises(CodecError, match="2049 packets"):
        decode_packet_batch(long.encode())
    columns = made_columns([Made(1, flow) for flow in FLOWS[:3]])
    fewer = {n: c[:1] if n in {p.name for p in PACKET_COLUMNS} else c for n, c in columns.items()}
    with pytest.raises(CodecError, match="1 packets and 3 flows"):
        decode_packet_batch(PacketBatch("p", 1, 0, 1, 0, 0, fewer).encode())


def test_a_packet_without_a_flow_directory_is_refused() -> None:
    columns = {**made_columns([Made(1)]), **{c.name: empty_columns()[c.name] for c in FLOW_COLUMNS}}
    with pytest.raises(CodecError, match="points past the flow directory"):
        decode_packet_batch(PacketBatch("p", 1, 0, 1, 0, 0, columns).encode())


def test_an_end_of_stream_carries_no_packets() -> None:
    end = PacketBatch("p", 1, 0, 1, 0, 0, empty_columns(), end_of_stream=True)
    assert decode_packet_batch(end.encode()).end_of_stream
    assert decode_packet_batch(end.encode()).packets == decode_packet_batch(end.encode()).flows == 0


def test_a_full_batch_is_as_small_as_promised() -> None:
    flows = [Flow("10.0.0.1", "10.0.0.2", i, 443) for i in range(100)]
    made = PacketBatch(
        "p", 1, 0, 1, 0, 0, made_columns([Made(1, flows[i % 100]) for i in range(MAX_PACKETS)])
    )
    assert len(made.encode()) <= 25 * MAX_PACKETS


def test_feature_batches_come_back_whole() -> None:
    batch = decode_feature_batch(message("FeatureBatch"))
    assert batch.encode() == message("FeatureBatch")
    assert batch.rows == 2
    assert batch.columns["features"].shape == (2, 3)
    assert batch.columns["source_address"].shape == (2, 16)
    assert set(batch.columns) == {c.name for c in (*FEATURE_COLUMNS, *SERVICE_COLUMNS)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feature_count": 2}, "2 features, but 3 names"),
        ({"feature_names": ["one"]}, "3 features, but 1 names"),
        ({"feature_count": -3}, "names"),
        ({"row_count": -2}, "packed columns of -2 rows"),
        ({"service_rows": 1}, "services of 1 rows for 2 rows"),
    ],
)
def test_feature_batches_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CodecError, match=said):
        decode_feature_batch(broken("FeatureBatch", **changes))


def test_feature_batches_without_rows_or_features_are_fine() -> None:
    empty = {c.name: np.empty((0, *c.width), c.element) for c in ROW_COLUMNS}
    batch = FeatureBatch("p", "r", 0, (), {**empty, "features": np.empty((0, 0), "<f4")})
    assert decode_feature_batch(batch.encode()).rows == 0
    rows = {c.name: np.zeros((4, *c.width), c.element) for c in ROW_COLUMNS}
    batch = FeatureBatch("p", "r", 0, (), {**rows, "features": np.empty((4, 0), "<f4")})
    assert decode_feature_batch(batch.encode()).columns["features"].shape == (4, 0)


def ended(reason: int) -> bytes:
    batch = decode_feature_batch(message("FeatureBatch"))
    batch.columns["flow_end_reason"] = np.array([reason, 0], "u1")
    return batch.encode()


def test_every_end_reason_is_taken_and_no_other() -> None:
    for reason in FlowEndReason:
        assert decode_feature_batch(ended(reason)).columns["flow_end_reason"].tolist() == [reason, 0]
    for other in (6, 255):
        with pytest.raises(CodecError, match=f"a flow end reason of {other}"):
            decode_feature_batch(ended(other))


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(0, 20), width=st.integers(0, 5), seed=st.integers(0, 1 << 30))
def test_any_features_survive_the_bus(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        c.name: np.frombuffer(rng.bytes(rows * c.row_bytes), c.element).reshape(rows, *c.width)
        for c in ROW_COLUMNS
    }
    columns["flow_end_reason"] = rng.integers(0, 6, rows).astype("u1")
    columns["ip_version"] = rng.choice([4, 6], rows).astype("u1")
    for name in ("source_address", "destination_address"):
        columns[name] = np.where(
            (columns["ip_version"] == 4)[:, None] & (np.arange(16) >= 4), 0, columns[name]
        )
    columns["features"] = np.frombuffer(rng.bytes(4 * rows * width), "<f4").reshape(rows, width)
    batch = FeatureBatch("p", "r", 0, tuple("abcde"[:width]), columns)
    back = decode_feature_batch(batch.encode()).columns
    for name, column in columns.items():
        assert back[name].dtype == column.dtype
        assert back[name].tobytes() == column.astype(column.dtype).tobytes(), name


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(0, 40), seed=st.integers(0, 1 << 30))
def test_any_packets_survive_the_bus(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    packets = [
        Made(
            int(rng.integers(0, LATEST_NS)), FLOWS[int(rng.integers(len(FLOWS)))], int(rng.integers(2)),
            int(rng.integers(1 << 32)), int(rng.integers(256)), int(rng.integers(1 << 16)),
            int(rng.integers(1 << 16)), int(rng.integers(256)),
        )
        for _ in range(rows)
    ]  # fmt: skip
    columns = made_columns(packets)
    back = decode_packet_batch(PacketBatch("p", 1, 0, 1, 0, 0, columns).encode())
    assert all(np.array_equal(back.columns[n], columns[n]) for n in columns)


def named(**changed: Any) -> PacketBatch:
    columns = {
        **made_columns([Made(1), Made(2)]),
        "names": join_names(["a.example", "b.example"]),
        "name_packet": np.array([0, 1], "<u2"),
        "name_index": np.array([1, 0], "<u2"),
        "name_source": np.array([1, 4], "u1"),
        **changed,
    }
    return PacketBatch("p", 1, 0, 1, 0, 0, columns)


def test_names_cross_the_wire() -> None:
    columns = decode_packet_batch(named().encode()).columns
    assert split_names(columns["names"]) == ["a.example", "b.example"]
    assert columns["name_index"].tolist() == [1, 0]


def test_a_batch_without_names_has_no_columns_of_them() -> None:
    plain = PacketBatch("p", 1, 0, 1, 0, 0, made_columns([Made(1)]))
    assert "names" not in decode_packet_batch(plain.encode()).columns


@pytest.mark.parametrize(
    "changed",
    [
        {"names": join_names(["a b", "c"])},
        {"names": np.frombuffer(b"a\xff", np.uint8)},
        {"names": np.frombuffer(b'a"\nb', np.uint8)},
        {"names": np.empty(0, np.uint8)},
        {"name_packet": np.array([0, 2], "<u2")},
        {"name_packet": np.array([1, 0], "<u2")},
        {"name_index": np.array([1, 2], "<u2")},
        {"name_source": np.array([1, 5], "u1")},
        {"name_source": np.array([0, 1], "u1")},
        {"name_source": np.array([1], "u1")},
        {n: np.empty(0, "<u2") for n in ("name_packet", "name_index", "name_source")},
    ],
)
def test_names_that_do_not_fit_the_batch(changed: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        decode_packet_batch(named(**changed).encode())
