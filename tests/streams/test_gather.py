"""Rows of several packet batches in fewer messages: no row is changed, lost or moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from schemas.features import FeatureBatch, decode_feature_batch
from streams.gather import Gathered
from streams.partition import Partition
from streams.plan import Plan
from tests.streams.made import FLOWS, SECOND, START_NS, Made, batch, brisk, rows_of

TRAFFIC = [Made(START_NS + i * SECOND // 10, FLOWS[i % 3], i % 2, 60 + i) for i in range(60)]


def made(probes: tuple[str, ...] = ("p",), size: int = 10) -> list[FeatureBatch]:
    """Return the feature batches of packet batches of several probes, taken in turn."""
    partition = Partition(Plan(brisk()), 1)
    out: list[FeatureBatch] = []
    for number in range(len(TRAFFIC) // size):
        packets = TRAFFIC[number * size : (number + 1) * size]
        for probe in probes:
            one = batch(packets, number, probe=probe, partition=1).sealed(1000 + number)
            out += partition.apply(one, 5000 + number, 0)
    return out


def gathered(batches: list[FeatureBatch], max_rows: int = 2048) -> list[FeatureBatch]:
    held = Gathered(max_rows)
    for one in batches:
        held.add(one)
    out = list(held.take())
    assert list(held.take()) == []
    return out


def test_a_place_gets_one_message_and_its_rows_keep_their_order() -> None:
    before = made(("p", "q"))
    after = gathered(before)
    places = [(b.representation, b.probe) for b in after]
    assert sorted(places) == sorted({(b.representation, b.probe) for b in before})
    assert len(after) < len(before)
    for one in after:
        parts = [b for b in before if (b.representation, b.probe) == (one.representation, one.probe)]
        assert rows_of([one]) == rows_of(parts)
        assert one.probe_time_ns == parts[0].probe_time_ns
        assert one.flows_received_time_ns == parts[0].flows_received_time_ns
        assert one.source_sequence == parts[-1].source_sequence
        assert rows_of([decode_feature_batch(one.encode())]) == rows_of(parts)


def test_a_batch_alone_is_handed_on_as_it_is() -> None:
    (first, *_) = made()
    (out,) = gathered([first])
    assert out is first


def test_no_message_is_larger_than_a_batch_may_be() -> None:
    before = made()
    limit = max(b.rows for b in before) + 1
    after = gathered(before, limit)
    assert all(b.rows <= limit for b in after)
    for name in {b.representation for b in before}:
        mine = [b for b in after if b.representation == name]
        assert rows_of(mine) == rows_of(b for b in before if b.representation == name)
    assert len(after) > len({b.representation for b in before})


def named(batch: FeatureBatch, texts: list[str]) -> FeatureBatch:
    """Return a batch whose first row has the first text as its service, the next row the next, and so on."""
    places = (np.arange(batch.rows) % len(texts)).astype("<u2")
    columns = {
        **batch.columns,
        "texts": np.frombuffer("\n".join(texts).encode(), np.uint8),
        "service": places,
        "server_name": places[::-1].copy(),
        "service_found_by": np.zeros(batch.rows, np.uint8),
    }
    return replace(batch, columns=columns)


def names(batch: FeatureBatch) -> list[tuple[str, str]]:
    texts = batch.columns["texts"].tobytes().decode().split("\n")
    return [
        (texts[a], texts[b])
        for a, b in zip(batch.columns["service"], batch.columns["server_name"], strict=True)
    ]


def test_services_and_servers_keep_their_names() -> None:
    parts = [b for b in made() if b.representation == "short"][:3]
    texts = [["", "video"], [""], ["mail", "", "example.org"]]
    before = [named(part, text) for part, text in zip(parts, texts, strict=True)]
    (after,) = gathered(before)
    assert names(after) == [pair for batch in before for pair in names(batch)]
    assert names(decode_feature_batch(after.encode())) == names(after)
