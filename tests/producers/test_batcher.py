from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from producers.batcher import NOTHING_PENDING, Batcher
from producers.columns import PacketColumns
from schemas.flow_key import partition_of
from schemas.packets import FLOW_COLUMNS, PACKET_COLUMNS, Extra, PacketBatch, decode_packet_batch
from tests.producers.synthetic import packets

Batch = tuple[int, dict[str, NDArray[Any]]]
PER_PACKET = [c.name for c in PACKET_COLUMNS if c.name != "flow_index"]
PER_FLOW = [c.name for c in FLOW_COLUMNS]


def kept(batches: Iterable[Batch]) -> list[Batch]:
    return [(p, {name: array.copy() for name, array in views.items()}) for p, views in batches]


def batched(columns: PacketColumns, partitions: int, max_packets: int, cuts: list[int]) -> list[Batch]:
    batcher = Batcher(partitions, max_packets)
    out: list[Batch] = []
    edges = [0, *sorted(c for c in cuts if c < columns.packets), columns.packets]
    for start, stop in itertools.pairwise(edges):
        out += kept(batcher.add(columns.part(start, stop)))
    return out + kept(batcher.flush())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 400),
    flows=st.integers(1, 60),
    seed=st.integers(0, 1000),
    partitions=st.integers(1, 9),
    max_packets=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_every_packet_is_in_its_partitions_batches_once_in_order_however_blocks_are_cut(
    rows: int, flows: int, seed: int, partitions: int, max_packets: int, cuts: list[int]
) -> None:
    columns = packets(rows, flows, seed)
    batches = batched(columns, partitions, max_packets, cuts)
    by_name = columns._asdict()
    of_row = np.array([partition_of(h, partitions) for h in columns.flow_hash], dtype=int)
    for p in range(partitions):
        mine = [views for q, views in batches if q == p]
        rows_of_p = np.flatnonzero(of_row == p)
        for name in PER_PACKET:
            got = np.concatenate([v[name] for v in mine]) if mine else np.empty(0)
            assert np.array_equal(got, by_name[name][rows_of_p]), name
        for name in PER_FLOW:
            got = np.concatenate([v[name][v["flow_index"]] for v in mine]) if mine else by_name[name][:0]
            assert np.array_equal(got, by_name[name][rows_of_p]), name
        assert [len(v["time_ns"]) for v in mine[:-1]] == [max_packets] * (len(mine) - 1)
        for views in mine:
            keys = {tuple(views[n][i].tobytes() for n in PER_FLOW) for i in range(len(views["flow_hash"]))}
            assert len(keys) == len(views["flow_hash"]), "a flow stands twice in the directory"
            first_seen = np.unique(views["flow_index"], return_index=True)[1]
            assert np.array_equal(first_seen, np.sort(first_seen)), "the directory follows the packets"
            assert len(first_seen) == len(views["flow_hash"]), "a flow without a packet"
    whole = batched(columns, partitions, max_packets, [])
    for p in range(partitions):
        cut_views = [v for q, v in batches if q == p]
        whole_views = [v for q, v in whole if q == p]
        assert len(cut_views) == len(whole_views)
        for one, other in zip(cut_views, whole_views, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_flows_with_the_same_hash_stay_apart() -> None:
    columns = packets(300, flows=30, seed=3)
    columns.flow_hash[:] = 7
    ((partition, views),) = batched(columns, 4, 2048, [])
    assert partition == 0
    assert len(views["flow_hash"]) == len(np.unique(columns.address_a, axis=0))
    assert np.array_equal(views["address_a"][views["flow_index"]], columns.address_a)


@pytest.mark.parametrize("field", ["port_a", "port_b", "protocol", "ip_version", "address_a", "address_b"])
def test_each_part_of_the_key_tells_flows_apart(field: str) -> None:
    columns = packets(2, flows=1)
    column = columns._asdict()[field]
    if column.ndim == 2:
        column[1, 15] ^= 1
    else:
        column[1] ^= 1
    ((_, views),) = batched(columns, 1, 10, [])
    assert views["flow_index"].tolist() == [0, 1]


def test_a_batch_survives_encoding() -> None:
    columns = packets(500, flows=50, seed=9)
    for partition, views in batched(columns, 3, 128, []):
        batch = PacketBatch("p", 1, partition, 3, 0, 2, views)
        back = decode_packet_batch(batch.encode())
        assert all(np.array_equal(back.columns[name], views[name]) for name in views)


def test_pending_since_and_overdue_follow_what_waits() -> None:
    batcher = Batcher(1, 100)
    assert batcher.overdue(NOTHING_PENDING) == []
    columns = packets(150)
    assert kept(batcher.add(columns.part(0, 60), now_ns=5)) == []
    assert kept(batcher.add(columns.part(60, 70), now_ns=7)) == []
    assert batcher.since_ns.tolist() == [5], "the first packet counts"
    assert [len(v["time_ns"]) for _, v in kept(batcher.add(columns.part(70, 150), now_ns=8))] == [100]
    assert batcher.pending.tolist() == [50]
    assert batcher.since_ns.tolist() == [8]
    assert batcher.overdue(7) == []
    assert batcher.overdue(8) == [0]
    assert len(kept(batcher.flush(0))) == 1
    assert batcher.pending.tolist() == [0]
    assert batcher.since_ns.tolist() == [NOTHING_PENDING]
    assert kept(batcher.flush()) == []


@pytest.mark.parametrize(("partitions", "max_packets"), [(0, 10), (70_000, 10), (1, 0), (1, 2049)])
def test_impossible_sizes_are_refused(partitions: int, max_packets: int) -> None:
    with pytest.raises(ValueError, match="possible"):
        Batcher(partitions, max_packets)


def test_directions_stay_with_their_packets() -> None:
    extra = Extra(direction=True)
    new = packets(3000, flows=40)
    new = new._replace(flow_direction=(new.octets % 3).astype(np.uint8))
    batcher = Batcher(4, 500, extra)
    pairs: list[tuple[int, int]] = []
    for step in (batcher.add(new), batcher.flush()):
        for _, views in step:
            batch = PacketBatch("p", 1, 0, 4, 0, 0, {name: view.copy() for name, view in views.items()})
            back = decode_packet_batch(batch.encode())
            assert back.extra == extra
            pairs += zip(
                back.columns["time_ns"].tolist(), back.columns["flow_direction"].tolist(), strict=True
            )
    assert sorted(pairs) == sorted(zip(new.time_ns.tolist(), new.flow_direction.tolist(), strict=True))
