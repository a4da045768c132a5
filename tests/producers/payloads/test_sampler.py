"""The sampler alone: which packet of which flow it takes, and what it counts where it takes none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from producers.followed import WAYS, FlowRules
from producers.payloads.sampler import DROPS, NAMES
from tests.producers.frames import (
    ACK,
    IP6,
    SYN,
    UDP,
    Record,
    ethernet,
    fragment6,
    icmp,
    ip4,
    ip6,
    pcap,
    tcp,
    udp,
)
from tests.producers.payloads.sampled import Sampled, Taken, sampled

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
SECOND = 1_000_000_000
FIN, RST, PSH = 1, 4, 8
BODY = b"\x55" * 30


def run(path: Path, records: list[Record], rules: FlowRules | None = None, **settings: object) -> Sampled:
    (path / "a.pcap").write_bytes(pcap(records, nanoseconds=True))
    return sampled(path / "a.pcap", rules, **settings)  # type: ignore[arg-type]


def segment(ms: float, back: bool = False, flags: int = PSH | ACK, body: bytes = BODY) -> Record:
    ports, ends = ((443, 4000), ("10.0.0.2", "10.0.0.1")) if back else ((4000, 443), ("10.0.0.1", "10.0.0.2"))
    return Record(ethernet(ip4(tcp(*ports, body, flags=flags), 6, *ends)), START_NS + round(ms * MS))


def starts(found: Sampled) -> list[float]:
    """Return when the flow of each packet began, in ms after the first packet of all."""
    return [(row.start_ns - START_NS) / MS for row in found.rows]


def test_every_packet_is_counted_once_and_fragments_are_told(tmp_path: Path) -> None:
    udp4 = udp(1, 2, BODY)
    frames = [
        (ethernet(ip4(udp4, UDP)), "rows"),
        (ethernet(ip4(udp4, UDP, fragment=0x2000)), "fragments"),
        (ethernet(ip4(bytes(64), UDP, fragment=0x2003)), "fragments"),
        (ethernet(ip4(bytes(64), UDP, fragment=0x0003)), "fragments"),
        (ethernet(ip6(fragment6(udp4, UDP, 0, more=True), 44), IP6), "fragments"),
        (ethernet(ip6(fragment6(bytes(64), UDP, 64, more=False), 44), IP6), "fragments"),
        (ethernet(ip6(udp4, UDP), IP6), "rows"),
        (ethernet(ip4(tcp(1, 2), 6)), "empty"),
        (ethernet(ip4(tcp(1, 2, b"", options=bytes(12)), 6)), "empty"),
        (ethernet(ip4(udp(1, 2, bytes(12)), UDP)), "empty"),
        (ethernet(ip4(udp(1, 2, bytes(13)), UDP)), "rows"),
        (ethernet(ip4(tcp(1, 2, b"x"), 6)), "rows"),
        (ethernet(ip4(icmp(8, 0, BODY), 1)), "rows"),
        (ethernet(ip4(udp4, UDP))[:-1], "truncated"),
    ]
    records = [
        Record(frame, START_NS + i * MS, original=len(frame) + (kind == "truncated"))
        for i, (frame, kind) in enumerate(frames)
    ]
    found = run(tmp_path, records)
    wanted = Counter(kind for _, kind in frames)
    assert {name: found.counts[name] for name in wanted} == dict(wanted)
    assert found.counts["packets"] == len(frames)
    assert found.counts["octets"] == sum(len(row.payload) for row in found.rows)
    assert found.counts["packets"] == sum(
        found.counts[n] for n in ("rows", "empty", "fragments", "truncated", "not_chosen")
    )
    assert set(DROPS) < set(NAMES)


def test_a_row_holds_what_stands_behind_the_mask_without_trailing_zeros(tmp_path: Path) -> None:
    bodies = [bytes(12) + b"abc\0\0", bytes(40), bytes(12) + b"\0\0z"]
    records = [Record(ethernet(ip4(udp(1, 2, body), UDP)), START_NS + i) for i, body in enumerate(bodies)]
    found = run(tmp_path, records)
    assert [row.payload for row in found.rows] == [b"abc", b"", b"\0\0z"]
    assert [row.octets for row in found.rows] == [25, 48, 23]
    assert [row.transport_octets for row in found.rows] == [8, 8, 8]
    assert found.rows[0] == Taken(START_NS, 1, found.rows[0].first_direction, 25, 8, 0, 1, b"abc")


def test_first_packets_counts_those_with_payload_and_tells_their_numbers(tmp_path: Path) -> None:
    records = [
        segment(0, flags=SYN, body=b""),
        segment(1, back=True, flags=SYN | ACK, body=b""),
        segment(2),
        segment(3, back=True, flags=ACK, body=b""),
        segment(4, back=True),
        segment(5),
    ]
    found = run(tmp_path, records, mode="first", first_packets=2)
    assert [row.packet_number for row in found.rows] == [3, 5]
    assert starts(found) == [0, 0]
    assert [row.source_port for row in found.rows] == [4000, 443]
    assert found.counts["empty"] == 3
    assert found.counts["not_chosen"] == 1


@pytest.mark.parametrize(
    ("closing", "later_ms", "begins"),
    [
        # After both FINs the flow goes on for the linger, 1 s, and a packet behind it opens another one.
        ([(1, False, FIN | ACK), (2, True, FIN | ACK)], 900, 0),
        ([(1, False, FIN | ACK), (2, True, FIN | ACK)], 1003, 1003),
        ([(1, False, FIN | ACK)], 30_000, 0),
        ([(1, False, FIN | ACK), (2, False, FIN | ACK)], 30_000, 0),
        ([(1, False, RST)], 900, 0),
        ([(1, True, RST | ACK)], 1002, 1002),
        ([], 59_999, 0),
        ([], 60_001, 60_001),
    ],
)
def test_a_flow_ends_by_fin_both_ways_by_rst_or_by_silence(
    closing: list[tuple[float, bool, int]], later_ms: float, begins: float, tmp_path: Path
) -> None:
    records = [segment(0), *(segment(ms, back, flags) for ms, back, flags in closing), segment(later_ms)]
    found = run(tmp_path, records)
    assert starts(found) == [0] * (1 + len(closing)) + [begins]
    assert found.rows[-1].packet_number == (1 if begins else len(records))


def test_a_port_used_again_after_the_end_opens_a_flow_at_once(tmp_path: Path) -> None:
    """SYN alone opens; SYN and ACK do not, and neither does a SYN of a flow that has not ended."""
    ended = [segment(0), segment(1, flags=RST)]
    opening = [segment(50, flags=SYN), segment(51)]
    assert starts(run(tmp_path, [*ended, *opening])) == [0, 0, 50, 50]
    answer = [segment(50, back=True, flags=SYN | ACK), segment(51)]
    assert starts(run(tmp_path, [*ended, *answer])) == [0, 0, 0, 0]
    assert starts(run(tmp_path, [segment(0), *opening])) == [0, 0, 0]


def test_the_end_of_one_flow_is_not_the_next_ones(tmp_path: Path) -> None:
    """A flow that took the place of an ended one has not ended itself."""
    records = [segment(0, flags=RST), segment(10, flags=SYN), segment(11), segment(5000)]
    assert starts(run(tmp_path, records)) == [0, 10, 10, 10]


def test_active_timeout_and_a_clock_set_back(tmp_path: Path) -> None:
    rules = FlowRules(idle_ns=60 * SECOND, active_ns=100 * SECOND)
    records = [segment(second * 1000) for second in (0, 50, 100, 101, 150)]
    assert starts(run(tmp_path, records, rules)) == [0, 0, 0, 101_000, 101_000]
    back = [segment(second * 1000) for second in (100, 41, 39, 40)]
    assert starts(run(tmp_path, back, rules)) == [100_000, 100_000, 39_000, 39_000]


def flows(count: int, rounds: int) -> list[Record]:
    return [
        Record(ethernet(ip4(udp(1000 + f, 53, BODY), UDP)), START_NS + (r * count + f) * 1000)
        for r in range(rounds)
        for f in range(count)
    ]


def test_a_full_memory_forgets_the_longest_silent_and_counts_it(tmp_path: Path) -> None:
    """With room for 16 flows a seventeenth takes the place of the one that was silent longest."""
    fits = run(tmp_path, flows(WAYS, 3), max_flows=16)
    assert fits.counts["flows_evicted"] == 0
    assert [row.packet_number for row in fits.rows] == [1] * WAYS + [2] * WAYS + [3] * WAYS
    records = flows(WAYS, 1)
    # Flow 0 speaks again, so flow 1 is the longest silent when another comes; flow 0 is still known.
    at = START_NS + SECOND
    again = [Record(ethernet(ip4(udp(1000 + f, 53, BODY), UDP)), at + i) for i, f in enumerate((0, 99, 0, 1))]
    found = run(tmp_path, records + again, max_flows=16)
    assert [row.packet_number for row in found.rows[-4:]] == [2, 1, 3, 1]
    assert found.counts["flows_evicted"] == 2


def test_a_flow_that_is_over_makes_room_uncounted(tmp_path: Path) -> None:
    records = [
        *flows(WAYS, 1),
        Record(ethernet(ip4(udp(5000, 53, BODY), UDP)), START_NS + 61 * SECOND),
        Record(ethernet(ip4(udp(5001, 53, BODY), UDP)), START_NS + 61 * SECOND),
    ]
    # All flows in one partition: each has an event time of its own.
    found = run(tmp_path, records, max_flows=16, partitions=1)
    assert found.counts["flows_evicted"] == 0
    assert len(found.rows) == WAYS + 2


def test_many_flows_in_little_room_lose_no_packet(tmp_path: Path) -> None:
    found = run(tmp_path, flows(500, 4), max_flows=64)
    assert found.counts["rows"] == found.counts["packets"] == 2000
    assert found.counts["flows_evicted"] > 0
    whole = run(tmp_path, flows(500, 4))
    assert whole.counts["flows_evicted"] == 0
    assert [row.payload for row in whole.rows] == [row.payload for row in found.rows]


def test_one_in_n_takes_about_so_many_and_the_same_however_blocks_are_cut(tmp_path: Path) -> None:
    records = flows(50, 80)
    found = run(tmp_path, records, one_in=10)
    assert 330 < len(found.rows) < 470
    assert found.counts["not_chosen"] == 4000 - len(found.rows)
    assert run(tmp_path, records, one_in=10, block=7).rows == found.rows
    numbers = np.bincount([row.packet_number for row in found.rows])
    assert np.count_nonzero(numbers) > 70
