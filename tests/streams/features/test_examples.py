"""Each feature on a few packets, with the numbers worked out by hand."""

from __future__ import annotations

import pytest

from streams.feature import Packet, Totals
from tests.streams.features.test_battery import Alone

MS = 1_000_000


def packet(
    depth: int,
    gap_ms: float = 0,
    octets: int = 100,
    direction: int = 0,
    flags: int = 0,
    window: int = 0,
    ttl: int = 64,
) -> Packet:
    return Packet(round(gap_ms * MS), octets, max(0, octets - 40), direction, flags, window, ttl, depth)


NONE = Totals(0, 0, 0, 0, 0, 0, 0)


def values(name: str, packets: list[Packet], totals: Totals = NONE, depth: int = 3) -> dict[str, float]:
    alone = Alone(name, depth)
    alone.feed(packets)
    return dict(
        zip([c.name for c in alone.feature.columns(depth)], alone.values(totals).tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("protocol", "version", "expected"),
    [(6, 4, (1, 0, 0)), (17, 6, (0, 1, 1)), (1, 4, (0, 0, 0)), (58, 6, (0, 0, 1)), (132, 4, (0, 0, 0))],
)
def test_protocol(protocol: int, version: int, expected: tuple[int, ...]) -> None:
    got = values("protocol", [], NONE._replace(protocol=protocol, ip_version=version))
    assert tuple(got.values()) == expected
    assert list(got) == ["is_tcp", "is_udp", "is_ipv6"]


def test_totals() -> None:
    assert values("totals", [], Totals(3, 1, 450, 50, 2_000_000_000, 6, 4)) == {
        "duration_s": 2,
        "total_packets_fwd": 3,
        "total_packets_rev": 1,
        "total_octets_fwd": 450,
        "total_octets_rev": 50,
        "mean_octets_fwd": 150,
        "mean_octets_rev": 50,
        "packets_per_s": 2,
        "octets_per_s": 250,
    }


def test_totals_of_one_packet_have_no_rate() -> None:
    got = values("totals", [], Totals(1, 0, 60, 0, 0, 6, 4))
    assert (got["packets_per_s"], got["octets_per_s"], got["mean_octets_rev"]) == (0, 0, 0)


def test_size_statistics() -> None:
    sizes = [2, 4, 4, 4, 5, 5, 7, 9]  # mean 5, standard deviation 2
    packets = [packet(i, octets=size) for i, size in enumerate(sizes, 1)]
    got = values("size_statistics", packets, NONE._replace(packets_fwd=5, packets_rev=3, octets_rev=40))
    assert got == {"octets_mean": 5, "octets_std": 2, "octets_min": 2, "octets_max": 9}


def test_size_statistics_of_packets_longer_than_65535() -> None:
    got = values(
        "size_statistics", [packet(1, octets=70_000)], NONE._replace(packets_fwd=1, octets_fwd=70_000)
    )
    assert got == {"octets_mean": 70_000, "octets_std": 0, "octets_min": 65_535, "octets_max": 65_535}


def test_gap_statistics() -> None:
    gaps = [2, 4, 4, 4, 5, 5, 7, 9]
    packets = [packet(1), *(packet(i, gap) for i, gap in enumerate(gaps, 2))]
    assert values("gap_statistics", packets) == {
        "gap_mean_us": 5000,
        "gap_std_us": pytest.approx(2000, rel=1e-6),
        "gap_max_us": 9000,
    }


def test_gap_statistics_of_one_packet() -> None:
    assert set(values("gap_statistics", [packet(1)]).values()) == {0}


def test_gap_statistics_of_a_window_count_the_gap_that_leads_into_it() -> None:
    assert values("gap_statistics", [packet(5, 8)]) == {
        "gap_mean_us": 8000,
        "gap_std_us": 0,
        "gap_max_us": 8000,
    }


def test_packet_sequence() -> None:
    packets = [packet(1, 0, 60), packet(2, 1.5, 1500, 1), packet(3, 0.25, 70_000), packet(4, 9, 5, 1)]
    assert values("packet_sequence", packets) == {
        "octets_1": 60,
        "octets_2": 1500,
        "octets_3": 65_535,
        "direction_1": 1,
        "direction_2": -1,
        "direction_3": 1,
        "gap_us_2": 1500,
        "gap_us_3": 250,
    }


def test_packet_sequence_not_yet_full() -> None:
    got = values("packet_sequence", [packet(1, 0, 60, 1)])
    assert list(got.values()) == [60, 0, 0, -1, 0, 0, 0, 0]


@pytest.mark.parametrize("depth", [1, 8, 9, 16, 17, 64])
def test_packet_sequence_keeps_every_direction(depth: int) -> None:
    ways = [(i * i + i // 3) % 2 for i in range(depth)]
    got = values("packet_sequence", [packet(i, direction=w) for i, w in enumerate(ways, 1)], depth=depth)
    assert [got[f"direction_{i}"] for i in range(1, depth + 1)] == [1 - 2 * w for w in ways]


def test_flag_sequence() -> None:
    packets = [packet(1, flags=2), packet(2, flags=18), packet(3, flags=16), packet(4, flags=1)]
    assert list(values("flag_sequence", packets).values()) == [2, 18, 16]
    assert list(values("flag_sequence", packets[:1]).values()) == [2, 0, 0]


def test_ttl_and_tcp_window_are_of_the_first_packet_each_way_that_has_one() -> None:
    packets = [
        packet(1, ttl=64, window=0),
        packet(2, ttl=63, window=500),
        packet(3, direction=1, ttl=128, window=64_240),
        packet(4, direction=1, ttl=1, window=1),
    ]
    assert values("ttl", packets) == {"ttl_fwd": 64, "ttl_rev": 128}
    assert values("tcp_window", packets) == {"tcp_window_fwd": 500, "tcp_window_rev": 64_240}
    assert values("tcp_window", packets[:1]) == {"tcp_window_fwd": 0, "tcp_window_rev": 0}
