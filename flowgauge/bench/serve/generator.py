"""Sends flows at a rate: each a copy of a template under an address of its own. Run as ``python -m`` with JSON.

A timing wheel holds what is due: each flow that has begun stands in the slot of its next packet's millisecond. So a
packet costs some tens of nanoseconds, however many flows are open.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowgauge.bench.serve.templates import PROBE
from producers.batcher import Batcher
from producers.bus import BusProducer
from producers.columns import PacketColumns, allocate
from producers.config import BusSettings, topic_name
from producers.first_packets import FirstPackets, Selection
from producers.followed import FlowRules
from producers.names.told import NOTHING_TOLD
from schemas.errors import BusError
from schemas.flow_key import hash_five_tuple
from schemas.packets import PacketBatch, empty_columns
from schemas.topics import PACKETS

SLOT_NS = 1_000_000
SLOTS = 1 << 17
"""Two minutes: no packet of a template is later than that."""
BLOCK_ROWS = 16_384
FLUSH_TIMEOUT_S = 30.0
LEAD_S = 0.5
"""The first flow begins so long after the generator is ready."""
_FLOWS_PER_ADDRESS_BITS = 24


class Wheel(NamedTuple):
    """Flows that are open; a named tuple, so that Numba takes it."""

    begins_ns: NDArray[np.int64]
    """(flows,) when each flow begins, rising, since the run's beginning."""
    template: NDArray[np.int32]
    packet: NDArray[np.int32]
    """Packets of each flow that were sent."""
    flow_hash: NDArray[np.uint64]
    following: NDArray[np.int32]
    """Next flow in the same slot, or -1."""
    heads: NDArray[np.int32]
    """(SLOTS,) first flow in each slot, or -1."""
    place: NDArray[np.int64]
    """Next slot to be emptied, next flow to begin."""


class Given(NamedTuple):
    """The templates."""

    first: NDArray[np.int64]
    offset_ns: NDArray[np.int64]
    protocol: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    octets: NDArray[np.uint32]
    header_octets: NDArray[np.uint16]
    tcp_window: NDArray[np.uint16]
    tcp_flags: NDArray[np.uint8]
    ttl: NDArray[np.uint8]
    direction: NDArray[np.uint8]


@njit(cache=True, nogil=True)
def write_addresses(number: int, version: int, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    """Write the addresses of flow ``number``: a source of its own, which is the smaller of the two."""
    a[:] = 0
    b[:] = 0
    at = 0
    if version == 4:
        a[0], b[0], b[1] = 10, 198, 18
    else:
        a[0], a[1], b[0], b[1] = 0xFC, 0, 0xFD, 0
        at = 12
    a[at + 1], a[at + 2], a[at + 3] = (number >> 16) & 255, (number >> 8) & 255, number & 255
    b[at + 3] = 1 + number % 250


@njit(cache=True, nogil=True)
def _begin(wheel: Wheel, given: Given, flow: int, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    t = wheel.template[flow]
    write_addresses(flow, given.ip_version[t], a, b)
    wheel.flow_hash[flow] = hash_five_tuple(
        a, b, given.source_port[t], given.destination_port[t], given.protocol[t], given.ip_version[t]
    )


@njit(cache=True, nogil=True)
def _send(wheel: Wheel, given: Given, flow: int, base_ns: int, out: PacketColumns, row: int) -> None:
    """Write the next packet of a flow."""
    t = wheel.template[flow]
    k = given.first[t] + wheel.packet[flow]
    out.time_ns[row] = base_ns + wheel.begins_ns[flow] + given.offset_ns[k]
    out.octets[row], out.header_octets[row] = given.octets[k], given.header_octets[k]
    out.tcp_window[row], out.tcp_flags[row] = given.tcp_window[k], given.tcp_flags[k]
    out.ttl[row], out.direction[row] = given.ttl[k], given.direction[k]
    out.flow_hash[row] = wheel.flow_hash[flow]
    write_addresses(flow, given.ip_version[t], out.address_a[row], out.address_b[row])
    out.port_a[row], out.port_b[row] = given.source_port[t], given.destination_port[t]
    out.protocol[row], out.ip_version[row] = given.protocol[t], given.ip_version[t]
    wheel.packet[flow] += 1


@njit(cache=True, nogil=True)
def step(wheel: Wheel, given: Given, until_ns: int, base_ns: int, out: PacketColumns) -> int:
    """Write what is due before ``until_ns``; return how many rows. As many as fit: then call again."""
    rows, room = 0, len(out.time_ns)
    a, b = np.zeros(16, np.uint8), np.zeros(16, np.uint8)
    slot, begun = wheel.place[0], wheel.place[1]
    while (slot + 1) * SLOT_NS <= until_ns:
        end_ns = (slot + 1) * SLOT_NS
        at = slot % SLOTS
        while begun < len(wheel.begins_ns) and wheel.begins_ns[begun] < end_ns:
            _begin(wheel, given, begun, a, b)
            wheel.following[begun] = wheel.heads[at]
            wheel.heads[at] = begun
            begun += 1
        while wheel.heads[at] >= 0:
            flow = wheel.heads[at]
            t = wheel.template[flow]
            count = given.first[t + 1] - given.first[t]
            due_ns = np.int64(0)
            while wheel.packet[flow] < count:
                due_ns = wheel.begins_ns[flow] + given.offset_ns[given.first[t] + wheel.packet[flow]]
                if due_ns >= end_ns:
                    break
                if rows == room:
                    wheel.place[0], wheel.place[1] = slot, begun
                    return rows
                _send(wheel, given, flow, base_ns, out, rows)
                rows += 1
            wheel.heads[at] = wheel.following[flow]
            if wheel.packet[flow] < count:
                ahead = (due_ns // SLOT_NS) % SLOTS
                wheel.following[flow] = wheel.heads[ahead]
                wheel.heads[ahead] = flow
        slot += 1
    wheel.place[0], wheel.place[1] = slot, begun
    return rows


def new_wheel(begins_ns: NDArray[np.int64], template: NDArray[np.int32]) -> Wheel:
    """Return a wheel of flows that begin at these times."""
    flows = len(begins_ns)
    return Wheel(
        begins_ns,
        template,
        np.zeros(flows, np.int32),
        np.zeros(flows, np.uint64),
        np.full(flows, -1, np.int32),
        np.full(SLOTS, -1, np.int32),
        np.zeros(2, np.int64),
    )


def plan_flows(
    templates: int, rate: int, seconds: float, seed: int, warm_s: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return when flows begin, a Poisson process, and which template each is a copy of.

    For ``warm_s`` before, a tenth of the rate begins.
    """
    rng = np.random.default_rng(seed)
    warm, count = round(warm_s * rate / 10), max(1, round(rate * seconds))
    early = np.sort(rng.integers(0, max(1, round(warm_s * 1e9)), warm))
    begins = np.sort(rng.integers(0, round(seconds * 1e9), count)) + round(warm_s * 1e9)
    whole = np.concatenate((early, begins)).astype(np.int64)
    return whole, rng.integers(0, templates, len(whole)).astype(np.int32)


class Generator:
    """Sends the flows of a plan."""

    def __init__(self, work: dict[str, Any]) -> None:
        bus = BusSettings.model_validate(work["bus"])
        data = np.load(work["templates"])
        self._given = Given(**{name: data[name] for name in Given._fields})
        self._wheel = new_wheel(data["begins_ns"], data["template"])
        self._seconds, self._linger_s = work["seconds"], work["linger_ms"] / 1e3
        self._drain_s, self._begun = work["drain_s"], Path(work["begun"])
        self._partitions = bus.partitions
        self._topic = topic_name(bus, PACKETS)
        self._first = first_of(work["selection"], bus.partitions)
        self._batcher = Batcher(bus.partitions)
        self._sequences = [0] * bus.partitions
        self._sink = BusProducer(bus)
        self._block = allocate(BLOCK_ROWS)
        self._epoch = time.time_ns()
        self.packets = self.packets_sent = 0
        self._late_max_ns = 0

    def run(self) -> dict[str, Any]:
        """Send everything at its time; return what was sent while flows began, and how long that took.

        Then a file tells that all flows have begun, and those that are open go on for a while: who waits for their
        packets gets them.
        """
        self._sink.connect()
        step(self._wheel, self._given, 0, 0, self._block)  # compiled before it counts
        base_ns = time.time_ns() + round(LEAD_S * 1e9)
        cpu_s = time.process_time()
        self._send(0, round(self._seconds * 1e9), base_ns)
        took_s, cpu_s = (time.time_ns() - base_ns) / 1e9, time.process_time() - cpu_s
        packets, packets_sent = self.packets, self.packets_sent
        late_max_ms = self._late_max_ns / 1e6
        self._begun.touch()
        self._send(round(self._seconds * 1e9), round((self._seconds + self._drain_s) * 1e9), base_ns)
        for partition in range(self._partitions):
            self._produce(partition, empty_columns(), end=True)
        if left := self._sink.flush(FLUSH_TIMEOUT_S):
            raise BusError(f"{left} batches were not acknowledged")
        self._sink.check()
        return {
            "flows": int(self._wheel.place[1]),
            "packets": packets,
            "packets_sent": packets_sent,
            "seconds": took_s,
            "cpu_s": cpu_s,
            "late_max_ms": late_max_ms,
            "begun_ns": base_ns,
        }

    def _send(self, begin_ns: int, end_ns: int, base_ns: int) -> None:
        """Send what is due between two times since the run's beginning, each packet when it is."""
        due_ns = begin_ns
        while due_ns < end_ns:
            due_ns = min(end_ns, due_ns + round(self._linger_s * 1e9))
            wait_ns = base_ns + due_ns - time.time_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            else:
                # What could not be sent in time goes in one.
                self._late_max_ns = max(self._late_max_ns, -wait_ns)
                due_ns = min(end_ns, max(due_ns, time.time_ns() - base_ns))
            self._send_until(due_ns, base_ns)

    def _send_until(self, due_ns: int, base_ns: int) -> None:
        while True:
            rows = step(self._wheel, self._given, due_ns, base_ns, self._block)
            block = self._block.head(rows)
            if self._first is not None:
                block, _ = self._first.take(block, (0, rows), NOTHING_TOLD)
            for partition, columns in self._batcher.add(block):
                self._produce(partition, columns)
            self.packets += rows
            self.packets_sent += block.packets
            if rows < BLOCK_ROWS:
                break
        for partition, columns in self._batcher.flush():
            self._produce(partition, columns)
        self._sink.check()

    def _produce(self, partition: int, columns: dict[str, Any], *, end: bool = False) -> None:
        batch = PacketBatch(
            PROBE,
            self._epoch,
            partition,
            self._partitions,
            self._sequences[partition],
            time.time_ns(),
            columns,
            end_of_stream=end,
            replayed=True,
        )
        self._sequences[partition] += 1
        self._sink.produce(self._topic, batch.encode(), partition, items=len(columns["time_ns"]))


def first_of(selection: Sequence[Any] | None, partitions: int) -> FirstPackets | None:
    """Return what chooses packets as a probe does, from a ``Selection`` that went through JSON; None: all are sent."""
    if selection is None:
        return None
    packets, max_flows, rules, sign_of_life_ns = selection
    return FirstPackets(Selection(packets, max_flows, FlowRules(*rules), sign_of_life_ns), partitions)


def save_plan(path: Path, given: dict[str, NDArray[Any]]) -> None:
    """Write templates and plan for the generator."""
    np.savez(path, **given)  # type: ignore[arg-type]


def main(argument: str) -> None:
    """Do what the JSON asks for and print what was sent as JSON."""
    print(json.dumps(Generator(json.loads(argument)).run()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
