"""The battery that every feature passes, the shipped ones and a user's alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, get_args

import numpy as np
from numba import njit
from numba.core.errors import NumbaError
from numba.core.runtime import rtsys
from numba.core.runtime._nrt_python import memsys_enable_stats
from numpy.typing import NDArray

from streams.feature import Feature, Level, Packet, Totals

DEPTHS = (1, 8, 64)
MAX_STATE_OCTETS = 8192
"""Most state of one feature and flow: a million flows are then 8 GB, and no feature needs that much."""
MAX_COLUMNS = 16_384
_SENTINEL = np.float32(-12345.5)
_ROOM = 3
_AMOUNTS = (0, 1, 40, 52, 576, 1500, 65_535, 65_536, 2**32 - 1)
_GAPS_NS = (0, 0, 0, 1, 999, 1_000_000, 250_000_000, 60 * 10**9, 1 << 60)


def check_module(module: ModuleType) -> list[str]:
    """Return what is wrong with a feature, one line each; nothing where all is well.

    Looked at: the declaration, bounded state, that ``update`` and ``emit`` compile and allocate nothing, that values
    are finite, repeatable, the same wherever the packets are cut and the state is saved and taken up again, also
    for packets of one timestamp in any order.
    """
    for checks in (_declaration, _functions, _values):
        problems = list(checks(module))
        if problems:
            return problems
    return []


def _declaration(module: ModuleType) -> Iterator[str]:
    feature: Feature = module.FEATURE
    if not feature.name.isidentifier() or not feature.name.islower() or len(feature.name) > 40:
        yield f"the name {feature.name!r} is not lower-case letters, digits and underscores, at most 40"
        return
    if not feature.doc:
        yield f"{feature.name} has no doc"
    if feature.level not in get_args(Level):
        yield f"{feature.name}: the level {feature.level!r} is none of {', '.join(get_args(Level))}"
    for depth in DEPTHS:
        try:
            state, columns = feature.state(depth), feature.columns(depth)
            dtype = feature.dtype(depth)
        except Exception as error:  # a user's function may raise anything
            yield f"{feature.name}: its declaration for depth {depth}: {type(error).__name__}: {error}"
            return
        names = [column.name for column in columns]
        if not columns or len(columns) > MAX_COLUMNS or len(set(names)) < len(names):
            yield f"{feature.name}: {len(columns)} columns, of {len(set(names))} names"
        for column in columns:
            if not (column.name.isidentifier() and column.unit and column.doc):
                yield f"{feature.name}: column {column.name!r} needs a name, a unit and a doc"
        if dtype.hasobject:
            yield f"{feature.name}: its state holds Python objects, which grow without bound"
        elif dtype.itemsize > MAX_STATE_OCTETS:
            yield f"{feature.name}: a state of {dtype.itemsize:,} octets a flow; at most {MAX_STATE_OCTETS:,}"
        unknown = set(feature.kept) - {field[0] for field in state}
        if unknown:
            yield f"{feature.name}: kept names {unknown.pop()!r}, which is no field of the state"


def _functions(module: ModuleType) -> Iterator[str]:
    feature: Feature = module.FEATURE
    wanted = ["emit"]
    if feature.state(DEPTHS[1]):
        has = [name for name in ("update", "update_head") if hasattr(module, name)]
        if not has:
            yield f"{feature.name} has a state, but no update"
        wanted += has
    for name in wanted:
        function = getattr(module, name, None)
        if function is None or not hasattr(function, "py_func"):
            yield f"{feature.name}: {name} is missing or not compiled: write @njit above it"
            return
    alone = Alone(module, DEPTHS[1])
    try:
        alone.feed(_packets(np.random.default_rng(0), 2))
        alone.values(Totals(1, 1, 100, 100, 1000, 6, 4))
    except NumbaError as error:
        yield f"{feature.name} does not compile: {_reason(error)}"
        return
    except Exception as error:
        yield f"{feature.name} raises {_told(error)}"
        return
    if any(_allocates(module, name) for name in wanted):
        yield f"{feature.name} allocates memory for each packet; keep what it needs in the state"


@njit
def _no_update(state: Any, packet: Packet) -> None:
    pass


@njit
def _no_update_head(state: Any, packet: Packet, heads: Any, start: int, stop: int) -> None:
    pass


@njit
def _no_emit(state: Any, totals: Totals, out: Any, at: int) -> None:
    pass


_NOTHING = {"update": _no_update, "update_head": _no_update_head, "emit": _no_emit}


def _allocates(module: ModuleType, name: str) -> bool:
    """Return whether a function allocates more than a call of it from Python does by itself."""
    alone = Alone(module, DEPTHS[1])
    packet, totals = _packets(np.random.default_rng(1), 1)[0], Totals(1, 1, 100, 100, 1000, 6, 4)
    arguments: tuple[Any, ...] = (alone.states[0], packet)
    if name == "emit":
        arguments = (alone.states[0], totals, np.zeros(alone.width, np.float32), 0)
    elif name == "update_head":
        head = head_of(packet, alone.needs.head_octets)
        arguments += (head, 0, len(head))
    memsys_enable_stats()
    counts = []
    for function in (_NOTHING[name], getattr(module, name)):
        function(*arguments)
        before = rtsys.get_allocation_stats()
        for _ in range(8):
            function(*arguments)
        after = rtsys.get_allocation_stats()
        counts.append(after.alloc - before.alloc)
    return counts[1] > counts[0]


def _reason(error: Exception) -> str:
    """Return the line of a compiler's message that says what is wrong."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Failed in", "During:", "File ", "- ", "["))]
    return (telling or lines or ["without a message"])[0]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _values(module: ModuleType) -> Iterator[str]:
    name = module.FEATURE.name
    for depth in DEPTHS:
        for seed in range(6):
            rng = np.random.default_rng(seed)
            packets = _packets(rng, int(rng.integers(1, 200)))
            try:
                yield from _one_run(module, depth, packets, rng)
            except Exception as error:
                yield f"{name} raises {_told(error)}"
                return
        empty = Alone(module, depth).values(Totals(0, 0, 0, 0, 0, 17, 6))
        if not np.isfinite(empty).all():
            yield f"{name}: without packets {_not_finite(module, depth, empty)}"


def _one_run(
    module: ModuleType, depth: int, packets: list[Packet], rng: np.random.Generator
) -> Iterator[str]:
    name, totals = module.FEATURE.name, totals_of(packets)
    whole = Alone(module, depth)
    whole.feed(packets)
    values = whole.values(totals)
    if not np.isfinite(values).all():
        yield f"{name}: {_not_finite(module, depth, values)}"
        return
    if whole.values(totals).tobytes() != values.tobytes():
        yield f"{name}: emit changes the state, so that a second call gives other values"
    again = Alone(module, depth)
    again.feed(packets)
    if again.values(totals).tobytes() != values.tobytes():
        yield f"{name}: the same packets give other values"
    cut = Alone(module, depth)
    for part in np.array_split(np.arange(len(packets)), int(rng.integers(1, 5))):
        cut.feed([packets[i] for i in part])
        cut.values(totals)
        cut.reload()
    if cut.values(totals).tobytes() != values.tobytes():
        yield f"{name}: saving the state between packets gives other values, so something is kept elsewhere"
    shuffled = Alone(module, depth)
    shuffled.feed(_shuffled_ties(packets, rng))
    other = shuffled.values(totals)
    if not np.isfinite(other).all():
        yield f"{name}: with packets of one timestamp in another order {_not_finite(module, depth, other)}"


def _not_finite(module: ModuleType, depth: int, values: NDArray[np.float32]) -> str:
    at = int(np.flatnonzero(~np.isfinite(values))[0])
    return f"column {module.FEATURE.columns(depth)[at].name} is {values[at]}"


class Alone:
    """A feature with one state, outside a kernel."""

    def __init__(self, module: ModuleType, depth: int) -> None:
        feature: Feature = module.FEATURE
        self.module, self.depth = module, depth
        self.width = len(feature.columns(depth))
        self.stateful = bool(feature.state(depth))
        self.needs = feature.needs(depth)
        self.states: NDArray[Any] = np.zeros(1, feature.dtype(depth) if self.stateful else "u1")

    def feed(self, packets: Sequence[Packet]) -> None:
        """Fold packets in, as a kernel does."""
        if not self.stateful:
            return
        update, update_head = (getattr(self.module, n, None) for n in ("update", "update_head"))
        state = self.states[0]
        for packet in packets:
            if update is not None and (packet.has_sequence or not self.needs.tcp):
                update(state, packet)
            if update_head is not None and packet.depth <= self.needs.head_packets:
                head = head_of(packet, self.needs.head_octets)
                update_head(state, packet, head, 0, len(head))

    def values(self, totals: Totals) -> NDArray[np.float32]:
        """Return the columns; raises ValueError if others were written, or some were not."""
        out = np.full(self.width + 2 * _ROOM, _SENTINEL, np.float32)
        self.module.emit(self.states[0], totals, out, _ROOM)
        if (out[:_ROOM] != _SENTINEL).any() or (out[_ROOM + self.width :] != _SENTINEL).any():
            raise ValueError("emit writes outside its columns")
        values = out[_ROOM : _ROOM + self.width]
        if (values == _SENTINEL).any():
            raise ValueError("emit leaves a column unwritten")
        return values

    def reload(self) -> None:
        """Go on with a copy of the state made of its bytes, as a worker does that takes over."""
        self.states = np.frombuffer(bytearray(self.states.tobytes()), self.states.dtype).copy()


def head_of(packet: Packet, octets: int) -> NDArray[np.uint8]:
    """Return the head that a probe would send of a packet."""
    headers = packet.octets - packet.payload_octets
    head = (np.arange(min(octets, packet.octets)) * 37 + packet.depth).astype(np.uint8)
    if len(head):
        head[0] = 0x45
    if len(head) > 9:
        head[9] = packet.protocol
    return head if headers <= packet.octets else head[:0]


def _packets(rng: np.random.Generator, count: int) -> list[Packet]:
    """Return packets of one flow with ordinary and extreme values."""
    time_ns, packets = 1_700_000_000 * 10**9, []
    sequences = [int(rng.integers(2**32)), 2**32 - 3000]
    protocol = int(rng.choice([6, 6, 17]))
    for depth in range(1, count + 1):
        gap_ns = 0 if depth == 1 else int(rng.choice(_GAPS_NS))
        if time_ns + gap_ns > 1 << 62:
            gap_ns = 0
        time_ns += gap_ns
        octets, d = int(rng.choice(_AMOUNTS)), int(rng.integers(2))
        payload = max(0, octets - 40)
        jump = int(rng.choice([0, 0, 0, 0, -1460, 1460, 2**31 - 1]))
        sequences[d] = (sequences[d] + jump) % 2**32
        tcp = protocol == 6
        packets.append(
            Packet(
                gap_ns, octets, payload, d, int(rng.integers(256)) if tcp else 0,
                int(rng.integers(65_536)) if tcp else 0, int(rng.integers(256)), depth, time_ns, protocol,
                tcp, sequences[d] if tcp else 0, sequences[1 - d] if tcp else 0,
            )
        )  # fmt: skip
        sequences[d] = (sequences[d] + payload) % 2**32
    return packets


def _shuffled_ties(packets: list[Packet], rng: np.random.Generator) -> list[Packet]:
    """Return the packets with those of one timestamp in another order."""
    keys = rng.random(len(packets))
    order = sorted(range(len(packets)), key=lambda i: (packets[i].time_ns, keys[i]))
    return [
        packets[i]._replace(depth=depth, gap_ns=packets[depth - 1].gap_ns) for depth, i in enumerate(order, 1)
    ]


def totals_of(packets: Sequence[Packet]) -> Totals:
    """Return the counts that a row of these packets has."""
    ways = [[p.octets for p in packets if p.direction == d] for d in (0, 1)]
    span_ns = packets[-1].time_ns - packets[0].time_ns
    return Totals(len(ways[0]), len(ways[1]), sum(ways[0]), sum(ways[1]), span_ns, packets[0].protocol, 4)
