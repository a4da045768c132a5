"""The open flows of one probe in one partition: the flow table and the event-time clock that closes flows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas import features
from schemas.columns import Array
from schemas.flow_key import probe_hash_of
from schemas.packets import ABSENT, COLUMNS, MAX_PACKETS, PacketBatch, decode_packet_batch
from streams.constants import CLOSED, COUNTERS, FORCED_END, FULL, LATE, OPENED, REORDERED, STEP_BACK
from streams.plan import Plan
from streams.services.named import FlowNames, told
from streams.services.rules import RuleBook
from streams.table import ACTIVE, HIGH_WATER, NEVER_NS, WATERMARK, new_table, used_bytes

SWEEP_ROWS = 4096
"""Least rows looked at after each batch. A few times the packets of a batch keeps the cost of closing flows
below that of counting them, and still goes round a table of a million flows in a few dozen batches."""

Rows = tuple[int, dict[str, Array]]


class BatchColumns(NamedTuple):
    """A packet batch's columns as the kernel reads them: all read-only, addresses as two words each."""

    flow_hash: NDArray[np.uint64]
    address_a: NDArray[np.uint64]
    address_b: NDArray[np.uint64]
    port_a: NDArray[np.uint16]
    port_b: NDArray[np.uint16]
    protocol: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    flow_index: NDArray[np.uint16]
    time_ns: NDArray[np.int64]
    octets: NDArray[np.uint32]
    header_octets: NDArray[np.uint16]
    tcp_window: NDArray[np.uint16]
    tcp_flags: NDArray[np.uint8]
    ttl: NDArray[np.uint8]
    direction: NDArray[np.uint8]
    tcp_sequence: NDArray[np.uint32]
    tcp_acknowledgment: NDArray[np.uint32]
    head_packet: NDArray[np.uint16]
    head_length: NDArray[np.uint16]
    head: NDArray[np.uint8]


def batch_columns(columns: Mapping[str, Array]) -> BatchColumns:
    """Return the kernel's view of a packet batch's columns, without a copy."""
    views = []
    for name in BatchColumns._fields:
        column = columns[name] if name in columns else ABSENT[name]
        if name in _ADDRESSES:
            column = column.view(np.uint64)
        if column.flags.writeable:
            # Decoded messages are read-only and a batcher's buffers are not; one kind means one compilation.
            column = column.view()
            column.flags.writeable = False
        views.append(column)
    return BatchColumns(*views)


_ADDRESSES = ("address_a", "address_b")


class ProbeFlows:
    """Open flows of one probe and partition. Every method yields the rows it emits as it goes."""

    def __init__(self, plan: Plan, probe: str, max_flows: int | None = None) -> None:
        """Start with no flows, with room for ``max_flows`` or as many as the settings say."""
        self.plan = plan
        self.probe_hash = probe_hash_of(probe)
        self.table = new_table(plan.row_dtype, max_flows or plan.settings.max_flows)
        self.counters = np.zeros(COUNTERS, np.int64)
        self.clock_steps = 0
        self.book = RuleBook(plan.settings.services, probe)
        self.names = FlowNames(self.book)
        self.usage = np.zeros((len(plan.services) + 1, 3), np.int64)
        """Packets, octets and flows by service; service 0 is unknown."""
        self._slots = np.empty(MAX_PACKETS, np.int32)
        self._hand = 0
        self._copies = np.empty((0, plan.row_dtype.itemsize), np.uint8)

    @property
    def active(self) -> int:
        """Return the number of open flows."""
        return int(self.table.meta[ACTIVE])

    @property
    def watermark_ns(self) -> int:
        """Return the newest event time seen."""
        return int(self.table.meta[WATERMARK])

    @property
    def state_bytes(self) -> int:
        """Return the memory that the flows have touched."""
        return used_bytes(self.table)

    def counts(self) -> dict[str, int]:
        """Return the counters by name."""
        c = self.counters
        return {
            "flows_opened": int(c[OPENED]),
            "packets_late": int(c[LATE]),
            "packets_reordered": int(c[REORDERED]),
            "clock_steps": self.clock_steps,
            "closed_idle_timeout": int(c[CLOSED + 1]),
            "closed_active_timeout": int(c[CLOSED + 2]),
            "closed_end_of_flow": int(c[CLOSED + 3]),
            "closed_forced_end": int(c[CLOSED + 4]),
            "closed_lack_of_resources": int(c[CLOSED + 5]),
        }

    def apply(self, columns: Mapping[str, Array]) -> Iterator[Rows]:
        """Fold a packet batch's columns in, and close what their event time makes due."""
        plan = self.plan
        batch, names, rules, usage = batch_columns(columns), None, None, None
        if plan.services:
            self._tidy_names()
            names, rules, usage = self.names.of_batch(columns), self.book.rules, self.usage
        at, looks = 0, max(SWEEP_ROWS, 4 * len(batch.time_ns))
        self._slots.fill(-1)
        while True:
            at, status, swept, self._hand = plan.kernel.fold(
                self.table,
                batch,
                names,
                self._slots,
                plan.limits,
                self.probe_hash,
                plan.outs,
                plan.filled,
                self.counters,
                rules,
                usage,
                at,
                self._hand,
                looks,
            )
            if status == FULL:
                yield from plan.drain()
            elif status == STEP_BACK:
                self.clock_steps += 1
                yield from self.end_all()
                self._slots.fill(-1)
            else:
                break
        if swept < self._hand:
            yield from plan.drain()
            yield from self._sweep(swept, self._hand, forced=0)
        yield from plan.drain()

    def advance(self, watermark_ns: int) -> Iterator[Rows]:
        """Move event time on without packets (never back) and close everything due by then."""
        if self.watermark_ns > NEVER_NS:
            self.table.meta[WATERMARK] = max(self.watermark_ns, watermark_ns)
        yield from self.sweep()

    def sweep(self) -> Iterator[Rows]:
        """Close everything that is due at the present event time."""
        yield from self._sweep(0, int(self.table.meta[HIGH_WATER]), forced=0)
        yield from self.plan.drain()

    def end_all(self) -> Iterator[Rows]:
        """End every flow: first those whose time has passed, then the rest by force; reset the clock."""
        yield from self.sweep()
        yield from self._sweep(0, int(self.table.meta[HIGH_WATER]), forced=FORCED_END)
        self.table.meta[WATERMARK] = NEVER_NS
        yield from self.plan.drain()

    def _sweep(self, start: int, stop: int, forced: int) -> Iterator[Rows]:
        plan = self.plan
        horizon = self.watermark_ns - plan.limits.lateness_ns
        while start < stop:
            start = plan.kernel.sweep(
                self.table,
                plan.limits,
                self.probe_hash,
                horizon,
                forced,
                plan.outs,
                plan.filled,
                self.counters,
                start,
                stop,
            )
            if start < stop:
                yield from plan.drain()

    def told(self, columns: dict[str, Array]) -> dict[str, Array]:
        """Return rows with their services and names as texts, where services are named."""
        if not self.plan.services:
            return columns
        return {**columns, **told(columns, self.names.texts, self.plan.services)}

    def _tidy_names(self) -> None:
        rows = self.table.rows[: int(self.table.meta[HIGH_WATER])]
        numbers = self.names.forget(rows["server_name"])
        if numbers is not None:
            rows["server_name"] = numbers

    def save(self) -> NDArray[np.void]:
        """Return copies of the rows of all open flows, good until the next call.

        They go where the last ones were: to have memory mapped anew costs ten times what copying does.
        """
        high_water = int(self.table.meta[HIGH_WATER])
        open_rows = np.flatnonzero(self.table.deadlines[:high_water] >= 0)
        # NumPy copies records field by field, octets at one stroke.
        rows = self.table.rows
        octets = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
        if len(self._copies) < len(open_rows):
            self._copies = np.empty((len(open_rows) * 5 // 4, rows.itemsize), np.uint8)
        out = self._copies[: len(open_rows)]
        octets.take(open_rows, axis=0, out=out, mode="clip")  # other modes would copy once more
        return out.reshape(-1).view(rows.dtype)

    def load(self, rows: NDArray[np.void], watermark_ns: int) -> None:
        """Take over the rows of a former worker; the table must be empty and large enough."""
        self.plan.kernel.restore(self.table, rows)
        self.table.meta[WATERMARK] = watermark_ns


def warm_up(plan: Plan) -> None:
    """Have every kernel compiled (or loaded from the cache) now, not when the first packets wait.

    A worker that compiled inside its agent would be silent for the seconds that this takes.
    """
    columns = {c.name: np.zeros((1, *c.dtype.shape), c.dtype.base) for c in COLUMNS}
    columns["ip_version"][:] = 4
    batch = decode_packet_batch(PacketBatch("warm-up", 0, 0, 1, 0, 0, columns).encode())
    features.warm_up()
    flows = ProbeFlows(plan, "warm-up", max_flows=16)
    for _ in flows.apply(batch.columns):
        pass
    flows.load(flows.save(), 0)
    for _ in flows.end_all():
        pass
