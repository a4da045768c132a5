"""The choice of first packets alone: which packets of made-up flows it sends, and what it makes of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.batcher import Batcher
from producers.columns import PacketColumns
from producers.first_packets import FirstPackets, Selection
from producers.followed import WAYS, FlowRules
from producers.names.told import NOTHING_TOLD, Told, allocate_told, tell
from schemas.flow_key import partition_of
from schemas.packets import Extra, NameSource
from tests.producers.synthetic import START_NS, packets
from tests.streams.made import ACK, FIN, FLOWS, RST, SYN, Flow, Made, decoded, flow_hash

MS, SECOND = 1_000_000, 1_000_000_000
RULES = FlowRules(2 * SECOND, 5 * SECOND, SECOND // 2, SECOND // 5)
SIGN_NS = SECOND
STEP_NS = 50 * MS


def selection(first: int = 2, max_flows: int = 1024) -> Selection:
    return Selection(first, max_flows, RULES, SIGN_NS)


def sent(made: Sequence[Made], first: int = 2, block: int = 1 << 20, partitions: int = 1) -> list[int]:
    """Return the places of the packets that are sent, which their octets tell."""
    numbered = [p._replace(octets=i) for i, p in enumerate(made)]
    selector, out = FirstPackets(selection(first), partitions), []
    for start in range(0, len(made), block):
        part = decoded(numbered[start : start + block])
        columns, _ = selector.take(part, (0, part.packets), NOTHING_TOLD)
        out += columns.octets.tolist()
    assert selector.left_out == len(made) - len(out)
    assert selector.flows_evicted == 0
    return out


@dataclass
class Known:
    """What the slow choice knows of a flow: packets that were sent, and no others."""

    start: int
    direction: int
    times: list[int] = field(default_factory=list)
    fins: set[int] = field(default_factory=set)
    ended: bool = False

    def is_over(self, now: int, flags: int) -> bool:
        if self.ended and flags & SYN and not flags & ACK:
            return True
        deadlines = [max(self.times) + RULES.idle_ns, self.start + RULES.active_ns]
        if self.ended:
            deadlines.append(max(self.times) + RULES.linger_ns)
        return now > min(deadlines)


def slowly(made: Sequence[Made], first: int, partitions: int = 1) -> list[int]:
    """Return what ``sent`` shall, one packet after the other with all that was sent before."""
    flows: dict[Flow, Known] = {}
    newest: dict[int, int] = {}
    out = []
    for i, p in enumerate(made):
        number = int(partition_of(np.uint64(flow_hash(p.flow)), partitions))
        if number in newest and p.time_ns < newest[number] - RULES.idle_ns:
            flows = {
                f: k for f, k in flows.items() if partition_of(np.uint64(flow_hash(f)), partitions) != number
            }
            del newest[number]
        watermark = max(newest.get(number, p.time_ns), p.time_ns)
        now = max(p.time_ns, watermark - RULES.lateness_ns)
        known = flows.get(p.flow)
        if known is None or known.is_over(now, p.flags):
            known = flows[p.flow] = Known(p.time_ns, p.direction)
        is_sent = (
            len(known.times) < first
            or known.ended
            or bool(p.flags & (FIN | RST))
            or abs(p.time_ns - known.times[-1]) >= SIGN_NS
        )
        if not is_sent:
            continue
        out.append(i)
        newest[number] = watermark
        known.times.append(p.time_ns)
        if p.flags & FIN:
            known.fins.add(p.direction)
        known.ended |= bool(p.flags & RST) or len(known.fins) == 2
    return out


# Steps of time in STEP_NS: lateness is 4, the linger 10, a sign of life 20, the idle timeout 40 of them.
STEPS = (
    0,
    0,
    0,
    1,
    1,
    1,
    2,
    3,
    5,
    10,
    11,
    19,
    20,
    21,
    40,
    41,
    90,
    -1,
    -2,
    -4,
    -5,
    -9,
    -19,
    -20,
    -30,
    -41,
    -60,
)
FLAGS = (ACK, ACK, ACK, ACK, SYN, SYN | ACK, FIN | ACK, FIN | ACK, RST)


@st.composite
def streams(draw: st.DrawFn) -> list[Made]:
    time_ns, out = START_NS, []
    few = draw(st.integers(1, len(FLOWS)))
    parts = st.tuples(
        st.sampled_from(STEPS), st.integers(0, few - 1), st.integers(0, 1), st.sampled_from(FLAGS)
    )
    for step, flow, direction, flags in draw(st.lists(parts, max_size=80)):
        time_ns += step * STEP_NS
        out.append(Made(time_ns, FLOWS[flow], direction, flags=flags if FLOWS[flow].protocol == 6 else 0))
    return out


@settings(max_examples=300, deadline=None)
@given(streams(), st.integers(1, 4), st.sampled_from((1, 3, 7, 100)), st.sampled_from((1, 4)))
def test_what_is_sent_is_what_a_slow_choice_sends_however_blocks_are_cut(
    made: list[Made], first: int, block: int, partitions: int
) -> None:
    assert sent(made, first, block, partitions) == slowly(made, first, partitions)


def at(ms: float, back: bool = False, flags: int = ACK, flow: int = 0) -> Made:
    return Made(START_NS + round(ms * MS), FLOWS[flow], int(back), flags=flags)


def test_the_first_packets_of_each_flow_are_sent_and_a_sign_of_life_now_and_then() -> None:
    made = [at(100 * i, flow=i % 2) for i in range(40)]
    # Flow 0 at 0, 200, …: 0 and 200 are its first, then 1200, 2200 and 3200; flow 1 a tenth of a second later.
    wanted = [0, 2, 12, 22, 32]
    assert sent(made) == sorted([*wanted, *(i + 1 for i in wanted)])


def test_what_ends_a_flow_is_sent_and_all_that_comes_while_it_lingers() -> None:
    made = [
        at(0),
        at(1),
        at(2),
        at(3, flags=FIN | ACK),
        at(4),
        at(5, True, FIN | ACK),
        at(6),
        at(400),
        at(899),
    ]
    assert sent(made) == [0, 1, 3, 5, 6, 7, 8]
    # The linger counts from the last packet: then a packet begins another flow, which sends its first.
    later = [*made, at(1400), at(1401), at(1402)]
    assert sent(later)[-2:] == [9, 10]
    assert sent([*made, at(1398), at(1399)])[-2:] == [9, 10]
    assert sent([at(0), at(1), at(2), at(3, flags=RST), at(4), at(5)]) == [0, 1, 3, 4, 5]


def test_a_port_used_again_begins_a_flow() -> None:
    ended = [at(0), at(1), at(2), at(3, flags=RST)]
    assert sent([*ended, at(10, flags=SYN), at(11), at(12), at(13)]) == [0, 1, 3, 4, 5]
    # A SYN of a flow that goes on is a packet like any other.
    assert sent([at(0), at(1), at(2, flags=SYN), at(3)]) == [0, 1]


def test_a_flow_begins_anew_after_silence_and_after_the_active_timeout() -> None:
    assert sent([at(0), at(1), at(2), at(2003), at(2004), at(2005)]) == [0, 1, 3, 4]
    steady = [at(900 * i) for i in range(8)]
    # 1800 and 3600 show that it lives; at 5400 it is older than 5 s, so 5400 and 6300 are the first of another.
    assert sent(steady) == [0, 1, 3, 5, 6, 7]


def test_a_clock_set_back_far_begins_all_flows_anew_and_less_far_is_a_sign_of_life() -> None:
    before = [at(10_000), at(10_001), at(10_002), at(10_003, flow=1)]
    assert sent([*before, at(7000), at(7001), at(7002), at(7003, flow=1)]) == [0, 1, 3, 4, 5, 7]
    assert sent([*before, at(8500), at(8501), at(8502), at(9500)]) == [0, 1, 3, 4, 7]


def test_a_flow_forgotten_for_want_of_room_sends_its_first_packets_again() -> None:
    """With room for 16 flows a seventeenth takes the place of the one silent longest, which is counted."""
    flows = [Flow("10.0.0.1", "10.0.0.2", port, 443) for port in range(WAYS + 1)]
    selector = FirstPackets(selection(1, max_flows=16), 1)
    order = [*range(WAYS), *range(WAYS), WAYS, 0, 0, 2]
    block = decoded([Made(START_NS + i, flows[f], octets=i) for i, f in enumerate(order)])
    columns, _ = selector.take(block, (0, block.packets), NOTHING_TOLD)
    # Flow 16 drives out flow 0, which drives out flow 1.
    assert columns.octets.tolist() == [*range(WAYS), 2 * WAYS, 2 * WAYS + 1]
    assert selector.flows_evicted == 2
    assert selector.left_out == WAYS + 2


def test_a_restart_forgets_all_flows() -> None:
    selector, block = FirstPackets(selection(), 4), packets(500, flows=10, step_ns=1000)
    block.tcp_flags[:] = ACK
    once = selector.take(block, (0, 500), NOTHING_TOLD)[0].octets.tolist()
    assert len(once) == 20 and not selector.take(block, (0, 500), NOTHING_TOLD)[0].packets
    selector.restart()
    assert selector.take(block, (0, 500), NOTHING_TOLD)[0].octets.tolist() == once
    assert selector.left_out == 3 * 500 - 40


def whole(rows: int) -> PacketColumns:
    """Return packets that have every column there is."""
    rng, block = np.random.default_rng(1), packets(rows, flows=8, step_ns=1000)
    block.tcp_flags[:] = ACK
    return block._replace(
        tcp_sequence=rng.integers(0, 1 << 32, rows, np.uint32),
        tcp_acknowledgment=rng.integers(0, 1 << 32, rows, np.uint32),
        head_length=rng.integers(20, 65, rows).astype(np.uint16),
        heads=rng.integers(1, 256, (rows, 64), np.uint8),
        flow_direction=rng.integers(0, 2, rows).astype(np.uint8),
    )


EXTRA = Extra(tcp=True, head_packets=3, head_octets=64, direction=True)


@pytest.mark.parametrize("extra", [Extra(), EXTRA])
def test_every_column_goes_with_its_packet(extra: Extra) -> None:
    block = whole(300)
    if extra == Extra():
        block = block._replace(
            **{n: c[:0] for n, c in block._asdict().items() if n in PacketColumns._fields[14:]}
        )
    block.ip_version[:] = 4 + 2 * (block.octets % 2)
    columns, _ = FirstPackets(selection(3), 4, extra).take(block, (20, 300), NOTHING_TOLD)
    places = np.flatnonzero(np.isin(block.time_ns, columns.time_ns))
    assert len(places) == columns.packets == 24 and places.min() >= 20
    for name, column in columns._asdict().items():
        theirs = getattr(block, name)
        if name == "heads" and len(column):
            for k, row in enumerate(places):
                assert (column[k, : block.head_length[row]] == theirs[row, : block.head_length[row]]).all()
        else:
            assert column.tolist() == (theirs[places] if len(theirs) else theirs).tolist(), name


def heads(block: PacketColumns, first: int) -> dict[int, bytes]:
    """Return the heads that a batcher takes, by the time of their packets; ``first`` = 0: all packets are sent."""
    batcher = Batcher(1, 512, EXTRA)
    if first:
        block, _ = FirstPackets(selection(first), 1, EXTRA).take(block, (0, block.packets), NOTHING_TOLD)
    out = {}
    for step in (batcher.add(block), batcher.flush()):
        for _, views in step:
            ends = np.cumsum(views["head_length"], dtype=np.int64)
            for packet, length, end in zip(views["head_packet"], views["head_length"], ends, strict=True):
                out[int(views["time_ns"][packet])] = views["head"][end - length : end].tobytes()
    return out


@pytest.mark.parametrize("first", [1, 3, 10])
def test_heads_are_those_of_the_same_packets_where_all_are_sent(first: int) -> None:
    block = whole(400)
    # Some flows end, and one says SYN twice, which begins its heads anew; all have signs of life.
    block.tcp_flags[40:80:7] = FIN | ACK
    block.tcp_flags[200] = SYN
    block.time_ns[:] = START_NS + np.arange(400) * 10 * MS
    columns, _ = FirstPackets(selection(first), 1, EXTRA).take(block, (0, 400), NOTHING_TOLD)
    times = set(columns.time_ns.tolist())
    everything = heads(block, 0)
    assert heads(block, first) == {time: head for time, head in everything.items() if time in times}
    assert len(times) < 400 and 8 <= len(everything) < 100


def told_of(rows: Sequence[int]) -> Told:
    told = allocate_told()
    for row in rows:
        name = f"host{row}.example".encode()
        tell(told, row, int(NameSource.TLS_SNI), np.frombuffer(name.ljust(64), np.uint8), len(name))
    return told.head(len(rows))


def test_what_tells_a_name_is_sent_and_keeps_its_name() -> None:
    block = packets(100, flows=4, step_ns=1000)
    block.tcp_flags[:] = ACK
    told = told_of([3, 30, 50, 50, 70, 99])
    columns, mine = FirstPackets(selection(1), 1).take(block, (20, 90), told)
    assert columns.packets == 4 + 3
    of_rows = {k: block.time_ns.tolist().index(time) for k, time in enumerate(columns.time_ns.tolist())}
    assert [of_rows.get(row) for row in mine.row.tolist()] == [None, 30, 50, 50, 70, None]
    assert mine.row.tolist() == sorted(mine.row.tolist()) and mine.row[0] < 0
    assert mine.row[-1] == columns.packets
    named: list[str] = []
    batcher = Batcher(1, names=True)
    for step in (batcher.add(columns, 0, mine), batcher.flush()):
        for _, views in step:
            texts = views["names"].tobytes().decode().split("\n")
            named += [texts[i] for i in views["name_index"]]
            assert [of_rows[k] for k in views["name_packet"].tolist()] == [30, 50, 50, 70]
    assert named == ["host30.example", "host50.example", "host50.example", "host70.example"]
