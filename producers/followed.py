"""Follows flows by the rules by which the flows agent ends them, in a table of fixed size.

Whoever chooses packets at a probe has to know of which flow a packet is, and which packet of it. A flow may stand in
any of 16 places that its hash leads to; if all are taken by flows that still go on, the longest silent is forgotten.
All functions are compiled into the loops that call them, once a packet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.flow_key import partition_of

WAYS = 16
FIN, SYN, RST, ACK = 1, 2, 4, 16
REVERSED, FIN_FWD, FIN_REV, ENDED = 1, 2, 4, 8
"""Bits of a flow's ``marks``; those from ``OWN`` on are for whoever follows."""
OWN = 16

FLOW_FIELDS = (
    ("start_ns", "i8"),
    ("last_ns", "i8"),
    ("packets", "u4"),
    ("generation", "u4"),
    ("marks", "u1"),
)
"""What is kept of every flow."""

_NEVER_NS = -(1 << 62)


class FlowRules(NamedTuple):
    """When a flow ends, in ns of event time; the defaults are those of the flows agent."""

    idle_ns: int = 60_000_000_000
    active_ns: int = 1_800_000_000_000
    linger_ns: int = 1_000_000_000
    lateness_ns: int = 200_000_000


class Followed(NamedTuple):
    """The flows followed, and each partition's clock. A named tuple, so that Numba takes it."""

    flow_hash: NDArray[np.uint64]
    flows: NDArray[Any]
    """(places,) records of FLOW_FIELDS and more; an older ``generation`` than its partition's means that the place
    is free."""
    watermark: NDArray[np.int64]
    """(partitions,) newest event time."""
    generation: NDArray[np.uint32]

    @property
    def state_bytes(self) -> int:
        """Memory of the flows, where every place was used once."""
        return self.flow_hash.nbytes + self.flows.nbytes

    def forget(self) -> None:
        """Forget all flows: what comes next is another stream."""
        self.generation[:] += np.uint32(1)
        self.watermark[:] = _NEVER_NS


def new_followed(max_flows: int, partitions: int, fields: tuple[tuple[str, str], ...]) -> Followed:
    """Return room for as many flows, with some fields of one's own; event time goes on in each partition for itself."""
    places = max(WAYS, 1 << (max_flows - 1).bit_length())
    # The large ones first, so that aligning them takes no room.
    record = sorted((*FLOW_FIELDS, *fields), key=lambda field: -np.dtype(field[1]).itemsize)
    return Followed(
        np.zeros(places, np.uint64),
        np.zeros(places, np.dtype(record, align=True)),
        np.full(partitions, _NEVER_NS, np.int64),
        np.ones(partitions, np.uint32),
    )


@compiled(forceinline=True)
def event_time(followed: Followed, p: int, time_ns: int, rules: FlowRules) -> int:
    """Return a partition's watermark once a packet has come; it is the caller's to keep.

    A packet that is older by far means that the clock was set back: all flows of the partition are over then.
    """
    watermark = followed.watermark[p]
    if time_ns > watermark:
        return time_ns
    if time_ns < watermark - max(rules.idle_ns, rules.lateness_ns):
        followed.generation[p] += np.uint32(1)
        return time_ns
    return watermark  # type: ignore[no-any-return]


@compiled(forceinline=True)
def _deadline(flow: Any, rules: FlowRules) -> int:
    deadline: int = min(flow.last_ns + rules.idle_ns, flow.start_ns + rules.active_ns)
    if flow.marks & ENDED:
        deadline = min(deadline, flow.last_ns + rules.linger_ns)
    return deadline


@compiled(forceinline=True)
def find(followed: Followed, flow_hash: np.uint64) -> int:
    """Return the place of a flow, or -1."""
    first = np.int64(flow_hash & np.uint64(len(followed.flow_hash) // WAYS - 1)) * WAYS
    for place in range(first, first + WAYS):
        if followed.flow_hash[place] == flow_hash:
            return place
    return -1


@compiled
def make_room(followed: Followed, flow_hash: np.uint64, rules: FlowRules) -> tuple[int, bool]:
    """Return a place for a new flow, and whether one that goes on had to give it up: the longest silent of its 16."""
    first = np.int64(flow_hash & np.uint64(len(followed.flow_hash) // WAYS - 1)) * WAYS
    silent = int(first)
    for place in range(first, first + WAYS):
        flow = followed.flows[place]
        partition = partition_of(followed.flow_hash[place], len(followed.watermark))
        if (
            flow.generation != followed.generation[partition]
            or _deadline(flow, rules) < followed.watermark[partition] - rules.lateness_ns
        ):
            return place, False
        if flow.last_ns < followed.flows[silent].last_ns:
            silent = place
    return silent, True


@compiled(forceinline=True)
def is_over(flow: Any, generation: np.uint32, now_ns: int, flags: int, rules: FlowRules) -> bool:
    """Return whether a packet that acts at ``now_ns`` belongs to another flow than the one that stands at its place."""
    reused = flow.marks & ENDED and flags & (SYN | ACK) == SYN
    return bool(flow.generation != generation or reused or now_ns > _deadline(flow, rules))


@compiled(forceinline=True)
def begin_flow(flow: Any, generation: np.uint32, time_ns: int, direction: int) -> None:
    """Let a flow begin with a packet, which is yet to be counted."""
    flow.start_ns, flow.last_ns, flow.packets = time_ns, time_ns, 0
    flow.generation, flow.marks = generation, direction


@compiled(forceinline=True)
def count_packet(flow: Any, time_ns: int, flags: int, direction: int) -> None:
    """Count a packet into its flow, which it may end."""
    flow.last_ns = max(flow.last_ns, time_ns)
    flow.packets += np.uint32(1)
    if flags & (FIN | RST):
        if flags & FIN:
            flow.marks |= FIN_REV if direction ^ (flow.marks & REVERSED) else FIN_FWD
        if flags & RST or (flow.marks & FIN_FWD and flow.marks & FIN_REV):
            flow.marks |= ENDED
