"""``first_packets…``: what it costs a probe to leave out all but the first packets of each flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.encode import kept_blocks
from producers.columns import PacketColumns, allocate
from producers.first_packets import FirstPackets, Selection
from producers.names.told import NOTHING_TOLD

FIRST = 10
FLOWS = 200_000
MAX_FLOWS = 1 << 20
_BLOCK, _BLOCKS = 8192, 256
_STEP_NS = 1000


def first_packets(corpus: Corpus, partitions: int, min_seconds: float) -> list[Result]:
    """Measure, in CPU time, the choice of the first ten packets: of the corpus, and of many flows that go on and on.

    Packets of the many flows come in random order, so that hardly one finds its flow in the caches.
    """
    blocks, many = kept_blocks(corpus), _many_flows()
    first, of_many = (FirstPackets(Selection(FIRST, MAX_FLOWS), partitions) for _ in range(2))

    def run() -> int:
        first.restart()
        return _take(first, blocks)

    return [
        _measure("first_packets", first, run, min_seconds),
        _measure("first_packets_many_flows", of_many, lambda: _take(of_many, many), min_seconds, flows=FLOWS),
    ]


def _take(first: FirstPackets, blocks: Sequence[PacketColumns]) -> int:
    for block in blocks:
        first.take(block, (0, block.packets), NOTHING_TOLD)
    return sum(block.packets for block in blocks)


def _measure(
    name: str, first: FirstPackets, run: Callable[[], int], min_seconds: float, **details: int
) -> Result:
    run()
    before = first.left_out
    packets = run()
    left_out = first.left_out - before
    rate = measure(run, min_seconds)
    return Result(
        name,
        round(1e9 / rate.cpu_value, 2),
        "ns/packet",
        spread=(round(1e9 / rate.most, 2), round(1e9 / rate.least, 2)),
        repeats=rate.repeats,
        details={"first_packets": FIRST, "left_out": round(left_out / packets, 4), **details},
    )


def _many_flows() -> list[PacketColumns]:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 1 << 64, FLOWS, np.uint64)
    blocks = []
    for number in range(_BLOCKS):
        block = allocate(_BLOCK)
        block.flow_hash[:] = hashes[rng.integers(0, FLOWS, _BLOCK)]
        block.time_ns[:] = (1 << 60) + (number * _BLOCK + np.arange(_BLOCK)) * _STEP_NS
        blocks.append(block)
    return blocks
