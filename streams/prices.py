"""What features cost, measured: CPU by ablation, state, and what their rows take on the bus.

Two kernels that differ in one feature run over the same packets one right after the other, over and over, in
turning order. The difference of their CPU times is the price, and a machine that gets slower meanwhile is slower for
both. Compiling comes before. Packets are decoded already, and rows are made but not sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from producers.batcher import Batcher
from producers.sources.capture import open_capture
from schemas.columns import Array
from schemas.errors import InputError
from schemas.flow_key import TCP
from schemas.packets import Extra, PacketBatch
from streams.engine import FeatureEngine
from streams.gather import Gathered
from streams.message_size import compressed_octets
from streams.probe_flows import warm_up

LINK_OCTETS = 38
"""What Ethernet adds to an IP packet on the link: head 14, checksum 4, preamble 8, gap 12."""
BLOCKS = 16
"""Parts of a pass over the packets that are timed by themselves."""
GATHERED = 32
"""Packet batches whose rows share a message: what a flows worker works off at once, when it is busy."""
_LEAST_FLOWS = 1 << 16
_HEAD_PLACE_OCTETS = 4
"""``head_packet`` and ``head_length`` of a packet with a head."""
_TCP_OCTETS = 8
_RESAMPLES = 2000


@dataclass(frozen=True)
class Load:
    """Packets to measure with: columns in batches of one partition, as a probe makes them."""

    batches: list[dict[str, Array]] = field(repr=False)
    packets: int
    octets: int
    """Of the IP packets, all together."""
    tcp_packets: int
    flows: int
    """Distinct five-tuples."""
    head_numbers: NDArray[np.int64] = field(repr=False)
    """Of each head, which of its five-tuple's it is, from 0."""
    head_octets: NDArray[np.int64] = field(repr=False)
    cut: bool
    """Whether the captures hold more packets."""

    def link_packets_per_s(self, link_gbps: float) -> float:
        """Return how many packets of this mean size fill an Ethernet link."""
        return link_gbps * 1e9 / 8 / (self.octets / self.packets + LINK_OCTETS)

    def lacks(self, needs: Extra) -> str:
        """Return what a feature needs that no packet here has; empty if there is nothing."""
        if needs.tcp and not self.tcp_packets:
            return "TCP packets"
        return "packets with their first octets" if needs.head_packets and not len(self.head_octets) else ""

    def packet_bytes(self, needs: Extra) -> float:
        """Return the octets per packet that probes send more for such needs."""
        sent = np.minimum(self.head_octets[self.head_numbers < needs.head_packets], needs.head_octets)
        heads = int(sent.sum()) + _HEAD_PLACE_OCTETS * len(sent)
        return heads / self.packets + _TCP_OCTETS * needs.tcp


def read_load(
    captures: Sequence[str], needs: Extra, max_packets: int, on_progress: Callable[[int], None] | None = None
) -> Load:
    """Read captures' first packets.

    Raises:
        InputError: a capture cannot be read, or none holds a packet.
    """
    batches: list[dict[str, Array]] = []
    packets, cut, batcher = 0, False, Batcher(1, extra=needs)

    def keep(ready: Iterator[tuple[int, dict[str, Array]]]) -> None:
        batches.extend({name: column.copy() for name, column in columns.items()} for _, columns in ready)

    for path in captures:
        with open_capture(path) as capture:
            for block in capture.blocks(extra=needs):
                keep(batcher.add(block))
                packets += block.packets
                if on_progress:
                    on_progress(packets)
                if packets >= max_packets:
                    cut = True
                    break
        if cut:
            break
    keep(batcher.flush())
    packets = sum(len(b["time_ns"]) for b in batches)
    if not packets:
        raise InputError(f"{', '.join(captures)}: no packet to measure with")
    return Load(
        batches,
        packets,
        octets=sum(int(b["octets"].sum(dtype=np.int64)) for b in batches),
        tcp_packets=sum(int((b["protocol"][b["flow_index"]] == TCP).sum()) for b in batches),
        flows=len(np.unique(np.concatenate([b["flow_hash"] for b in batches]))),
        head_numbers=_numbers(
            [b["flow_hash"][b["flow_index"][b["head_packet"]]] for b in batches if "head" in b]
        ),
        head_octets=_joined([b["head_length"] for b in batches if "head" in b]),
        cut=cut,
    )


def _joined(parts: list[Array]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _numbers(parts: list[Array]) -> NDArray[np.int64]:
    """Return the how manieth of its kind each value is."""
    values = np.concatenate([np.zeros(0, np.uint64), *parts])
    order = np.argsort(values, kind="stable")
    first = np.concatenate([[True], values[order][1:] != values[order][:-1]])[: len(values)]
    places = np.arange(len(values))
    numbers = np.zeros(len(values), np.int64)
    numbers[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return numbers


@dataclass(frozen=True)
class Footprint:
    """What a set of features leaves behind on a load."""

    state_bytes: int
    """A flow's row in the table: key, counts, the features' state."""
    rows: int
    flows: int
    plain_bytes: int
    """Of the rows' messages, all together."""
    packed_bytes: int
    """The same, each message compressed by itself with lz4."""

    @property
    def record_bytes(self) -> float:
        """Return the compressed bytes of a row; 0 without rows."""
        return self.packed_bytes / self.rows if self.rows else 0.0

    @property
    def plain_bytes_of_row(self) -> float:
        """Return the bytes of a row before compression; 0 without rows."""
        return self.plain_bytes / self.rows if self.rows else 0.0


def footprint(engine: FeatureEngine, load: Load) -> Footprint:
    """Return what features leave behind: exact, so once is enough."""
    (partition,) = engine.partitions(1)
    gathered = Gathered(engine.plan.max_rows)
    rows = plain = packed = 0

    def send() -> None:
        nonlocal rows, plain, packed
        for made in gathered.take():
            value = made.encode()
            rows, plain, packed = rows + made.rows, plain + len(value), packed + compressed_octets(value)

    for sequence, columns in enumerate(load.batches):
        batch = PacketBatch("price", 1, 0, 1, sequence, 0, columns, replayed=True)
        for made in partition.apply(batch, 0, 0):
            gathered.add(made)
        if sequence % GATHERED == GATHERED - 1:
            send()
    for made in partition.end_all(0):
        gathered.add(made)
    send()
    flows = partition.counts()["flows_opened"]
    return Footprint(engine.state_bytes, rows, flows, plain, packed)


class Timed:
    """A kernel with its table, ready to be timed over a load."""

    def __init__(self, engine: FeatureEngine, load: Load) -> None:
        """Compile the kernel and open a table."""
        warm_up(engine.plan)
        self._table = engine.table("price", max(_LEAST_FLOWS, load.flows))
        self._blocks = [b.tolist() for b in np.array_split(np.arange(len(load.batches)), BLOCKS) if len(b)]
        self._batches = load.batches
        self.packets = np.array([sum(len(load.batches[i]["time_ns"]) for i in b) for b in self._blocks])
        """Of each block."""

    def run(self) -> NDArray[np.int64]:
        """Return the CPU time of each block in ns; the flows' ends count into the last."""
        taken = np.zeros(len(self._blocks), np.int64)
        for number, block in enumerate(self._blocks):
            began = time.thread_time_ns()
            for i in block:
                for _ in self._table.apply(self._batches[i]):
                    pass
            if number == len(self._blocks) - 1:
                for _ in self._table.end_all():
                    pass
            taken[number] = time.thread_time_ns() - began
        return taken


@dataclass(frozen=True)
class CpuPrice:
    """CPU ns per packet over (repeats, blocks) of a measurement."""

    mean: float
    median: float
    p99: float
    low: float
    """Of the 95 % interval of the mean, by bootstrap over the repeats."""
    high: float


def cpu_price(ns: NDArray[np.float64], packets: NDArray[np.int64], seed: int = 0) -> CpuPrice:
    """Return the price that times tell.

    Args:
        ns: (repeats, blocks) CPU time; of a feature, what it added.
        packets: (blocks,) packets of each block.
        seed: of the bootstrap.
    """
    each = ns / packets
    repeats = ns.sum(axis=1) / packets.sum()
    drawn = np.random.default_rng(seed).integers(len(repeats), size=(_RESAMPLES, len(repeats)))
    low, high = np.quantile(repeats[drawn].mean(axis=1), (0.025, 0.975))
    median, p99 = np.quantile(each, (0.5, 0.99))
    return CpuPrice(float(repeats.mean()), float(median), float(p99), float(low), float(high))


class Pair:
    """Two kernels, one with and one without something, timed in turns."""

    def __init__(self, without: Timed, having: Timed) -> None:
        self._without, self._having = without, having
        self._added: list[NDArray[np.int64]] = []

    def measure(self) -> None:
        """Time both once; which goes first turns with each call."""
        if len(self._added) % 2:
            having, without = self._having.run(), self._without.run()
        else:
            without, having = self._without.run(), self._having.run()
        self._added.append(having - without)

    def price(self) -> CpuPrice:
        """Return what the second takes more than the first."""
        return cpu_price(np.array(self._added, np.float64), self._having.packets)
