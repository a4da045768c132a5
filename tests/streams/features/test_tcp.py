"""TCP state against plain Python on made-up connections, across the wrap of the sequence numbers."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from streams.feature import Packet, Totals
from tests.streams.features.test_battery import Alone

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
NONE = Totals(0, 0, 0, 0, 0, 6, 4)
MS = 1_000_000


def segment(
    time_ms: float, direction: int, seq: int, ack: int, payload: int = 0, flags: int = ACK, window: int = 1000
) -> Packet:
    """Return a TCP packet; sequence numbers are relative to just before the wrap."""
    base = 2**32 - 2000
    time_ns = 10**18 + round(time_ms * MS)
    return Packet(
        0, payload + 40, payload, direction, flags, window, 64, 2, time_ns, 6, True,
        (base + seq) % 2**32, (base + ack) % 2**32,
    )  # fmt: skip


def values(name: str, packets: list[Packet]) -> dict[str, float]:
    alone = Alone(name, 8)
    alone.feed(packets)
    names = [c.name for c in alone.feature.columns(8)]
    return dict(zip(names, alone.values(NONE).tolist(), strict=True))


def transfer(count: int, size: int = 700) -> list[Packet]:
    """Return data from the destination in order, each acknowledged 20 ms later, over the wrap."""
    packets = []
    for i in range(count):
        packets.append(segment(100 * i, 1, i * size, 0, size))
        packets.append(segment(100 * i + 20, 0, 0, (i + 1) * size))
    return packets


def test_a_transfer_in_order_over_the_wrap_has_no_loss() -> None:
    got = values("tcp_delivery", transfer(10))
    assert got["retransmissions_rev"] == got["out_of_order_rev"] == 0
    assert got["in_flight_max_rev"] == 700
    assert got["in_flight_mean_fwd"] == 0


def test_a_segment_sent_again_over_the_wrap_is_a_retransmission() -> None:
    packets = [*transfer(5), segment(900, 1, 4 * 700, 0, 700), segment(901, 1, 0, 0, 700)]
    assert values("tcp_delivery", packets)["retransmissions_rev"] == 2


@pytest.mark.parametrize(
    ("after_ms", "expected"), [(1, ("out_of_order_rev", 1)), (50, ("retransmissions_rev", 1))]
)
def test_a_hole_filled_soon_is_disorder_and_later_is_loss(after_ms: float, expected: tuple[str, int]) -> None:
    packets = [
        segment(0, 1, 0, 0, 1000),
        segment(1, 1, 2000, 0, 1000),
        segment(1 + after_ms, 1, 1000, 0, 1000),
    ]
    got = values("tcp_delivery", packets)
    assert got[expected[0]] == expected[1]
    assert got["retransmissions_rev"] + got["out_of_order_rev"] == 1


def test_a_keep_alive_is_no_retransmission() -> None:
    packets = [segment(0, 1, 0, 0, 1000), segment(9, 1, 999, 0, 1), segment(20, 1, 999, 0, 0)]
    got = values("tcp_delivery", packets)
    assert got["retransmissions_rev"] == got["out_of_order_rev"] == 0


def test_octets_in_flight() -> None:
    packets = [
        segment(0, 0, 0, 0),
        *(segment(i, 1, i * 500, 0, 500) for i in range(6)),
        segment(7, 0, 0, 3000),
    ]
    got = values("tcp_delivery", packets)
    assert got["in_flight_max_rev"] == 3000
    assert got["in_flight_mean_rev"] == pytest.approx(1750, rel=1e-3)


def test_round_trips_of_both_sides() -> None:
    delays_ms = [20, 30, 25, 40]
    packets = [
        segment(0, 0, 0, 0, 0, SYN),
        segment(15, 1, 0, 1, 0, SYN | ACK),
        segment(17, 0, 1, 1),
    ]
    for i, delay in enumerate(delays_ms):
        packets.append(segment(1000 * i + 100, 1, 1 + i * 900, 1, 900))
        packets.append(segment(1000 * i + 100 + delay, 0, 1, 1 + (i + 1) * 900))
    got = values("tcp_rtt", packets)
    samples = [2000, *(1000 * d for d in delays_ms)]
    jitter = 0.0
    for before, after in pairwise(samples):
        jitter += (abs(after - before) - jitter) / 16
    assert got["rtt_mean_us_fwd"] == pytest.approx(15_000, rel=1e-3)
    assert got["rtt_samples_fwd"] == 1
    assert got["rtt_samples_rev"] == 5
    assert got["rtt_mean_us_rev"] == pytest.approx(statistics.fmean(samples), rel=1e-3)
    assert got["rtt_std_us_rev"] == pytest.approx(statistics.pstdev(samples), rel=1e-3)
    assert got["rtt_min_us_rev"] == pytest.approx(2000, rel=1e-3)
    assert got["rtt_max_us_rev"] == pytest.approx(40_000, rel=1e-3)
    assert got["rtt_jitter_us_rev"] == pytest.approx(jitter, rel=1e-3)


def test_a_segment_sent_again_gives_no_sample() -> None:
    packets = [segment(0, 1, 0, 0, 500), segment(300, 1, 0, 0, 500), segment(310, 0, 0, 500)]
    assert values("tcp_rtt", packets)["rtt_samples_rev"] == 0


def test_flags_and_windows() -> None:
    packets = [segment(i, i % 2, 0, 0, 0, ACK | (PSH if i < 3 else 0), 100 * i) for i in range(6)]
    flags = values("tcp_flag_counts", packets)
    assert (flags["ack_fwd"], flags["psh_fwd"], flags["psh_rev"], flags["rst_fwd"]) == (3, 2, 1, 0)
    window = values("tcp_receive_window", packets)
    assert (window["receive_window_min_fwd"], window["receive_window_max_fwd"]) == (0, 400)
    assert window["receive_window_mean_rev"] == pytest.approx(300, rel=1e-3)


def test_video_segments_are_bursts_after_requests() -> None:
    packets, sizes = [], [2000, 6000, 1000]
    for i, size in enumerate(sizes):
        packets.append(segment(4000 * i, 0, 0, 0, 300))
        packets += [segment(4000 * i + 100 + 10 * k, 1, 0, 0, 1000) for k in range(size // 1000)]
    packets.append(segment(12_000, 0, 0, 0, 300))
    got = values("video_segments", packets)
    assert (got["segments"], got["window_segments"], got["segment_octets_sum"]) == (3, 3, 9000)
    assert (got["segment_octets_min"], got["segment_octets_max"], got["segment_open_octets"]) == (
        1000,
        6000,
        0,
    )
    assert got["segment_octets_mean"] == pytest.approx(3000, rel=1e-3)
    assert got["segment_octets_std_last10"] == pytest.approx(statistics.pstdev(sizes), rel=1e-3)
    assert got["segment_request_gap_mean_s"] == pytest.approx(4.0, rel=1e-3)
    assert got["segment_duration_mean_s"] == pytest.approx((0.11 + 0.15 + 0.1) / 3, rel=1e-3)
    assert got["segment_completion_gap_mean_s"] == pytest.approx((4.04 + 3.95) / 2, rel=1e-3)
