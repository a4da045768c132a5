"""Prices: what times and rows tell, without timing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import InputError
from schemas.packets import NO_EXTRA, Extra
from streams.config import RepresentationSettings, StreamsSettings
from streams.live_prices import LivePrices
from streams.plan import Plan
from streams.price_list import PriceMaker, all_needs, needs_of
from streams.prices import LINK_OCTETS, Load, cpu_price, read_load
from streams.services.config import ServiceSettings

WINDOW = RepresentationSettings(name="window", kind="window", features=("counters",), every_s=1.0)
FLOW = RepresentationSettings(name="flow", kind="flow", features=("protocol",))


def test_a_price_is_the_mean_of_the_repeats_by_packets() -> None:
    ns = np.array([[10.0, 300.0], [30.0, 500.0], [20.0, 400.0]])
    price = cpu_price(ns, np.array([10, 100]))
    assert price.mean == pytest.approx((310 + 530 + 420) / 3 / 110)
    assert price.median == pytest.approx(3.0)
    assert price.p99 == pytest.approx(np.quantile([1, 3, 3, 5, 2, 4], 0.99))
    assert 310 / 110 <= price.low <= price.mean <= price.high <= 530 / 110
    assert cpu_price(ns[:1], np.array([10, 100])).low == pytest.approx(310 / 110)


def test_packets_are_read_up_to_a_number(demo_capture: Path) -> None:
    whole = read_load([str(demo_capture)], NO_EXTRA, 1 << 20)
    assert not whole.cut
    assert whole.packets > 10_000 > whole.flows
    part = read_load([str(demo_capture)] * 2, NO_EXTRA, 5000)
    assert part.cut
    assert 5000 <= part.packets < whole.packets
    mean = whole.octets / whole.packets
    assert whole.link_packets_per_s(10) == pytest.approx(1.25e9 / (mean + LINK_OCTETS))


def test_what_features_make_probes_send_is_counted(demo_capture: Path) -> None:
    load = read_load([str(demo_capture)], Extra(tcp=True, head_packets=3, head_octets=64), 1 << 20)
    assert load.packet_bytes(NO_EXTRA) == 0
    assert load.packet_bytes(Extra(tcp=True)) == 8
    heads = len(load.head_octets)
    assert load.packet_bytes(Extra(head_packets=3, head_octets=64)) * load.packets == pytest.approx(
        int(load.head_octets.sum()) + 4 * heads,
        rel=0.01,  # some five-tuples have two flows
    )
    first = int((load.head_numbers == 0).sum())
    assert load.packet_bytes(Extra(head_packets=1, head_octets=20)) * load.packets == pytest.approx(
        24 * first
    )
    assert load.lacks(Extra(tcp=True, head_packets=3, head_octets=64)) == ""


def test_what_packets_lack_is_told() -> None:
    nothing = np.zeros(0, np.int64)
    load = Load([], 1, 40, tcp_packets=0, flows=1, head_numbers=nothing, head_octets=nothing, cut=False)
    assert load.lacks(NO_EXTRA) == ""
    assert load.lacks(Extra(tcp=True)) == "TCP packets"
    assert load.lacks(Extra(head_packets=1, head_octets=1)) == "packets with their first octets"


def test_an_empty_capture_has_no_price(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    with pytest.raises(InputError, match="no packet to measure with"):
        read_load([str(empty)], NO_EXTRA, 100)


def test_a_feature_is_priced(demo_capture: Path) -> None:
    settings = StreamsSettings()
    needs = needs_of(("counters",), settings, WINDOW)
    load = read_load([str(demo_capture)], all_needs(needs), 20_000)
    steps: list[Any] = []
    found = PriceMaker(settings, WINDOW, load).price(("counters",), 3, lambda *told: steps.append(told))
    assert found is not None
    assert steps == [("compiled", 1, 2), ("compiled", 2, 2)] + [("measured", n, 3) for n in (1, 2, 3)]
    (feature,) = found.features
    assert (feature.name, feature.level, feature.state_bytes, feature.packet_bytes) == (
        "counters", "network", 24, 0
    )  # fmt: skip
    assert feature.alone == feature.company == found.together  # there is no other feature
    assert found.whole.state_bytes - found.base.state_bytes == 24
    assert found.whole.rows == found.base.rows > found.whole.flows > 0
    # Four columns, which take fewer octets on the bus than the 16 of float32.
    assert 1 < feature.alone.plain_record_bytes < 16
    assert 0 < feature.alone.record_bytes < feature.alone.plain_record_bytes
    assert found.base_cpu.mean > 0
    assert PriceMaker(settings, WINDOW, load).price(("counters",), 3, stop=lambda: True) is None


def test_live_prices_split_a_batch_by_its_packets() -> None:
    service = ServiceSettings(name="web", ports=("tcp/443",), collect=("counters",))
    prices = LivePrices(Plan(StreamsSettings(representations=(WINDOW, FLOW), services=(service,))))
    told: dict[str, float | None] = {}
    prices.folded(1000, [0, 0], [75, 25])
    prices.folded(5000, [75, 25], [75, 125])
    prices.folded(10, [75, 125], [75, 125])
    prices.produced("web", 10, 900)
    prices.produced("web", 5, 300)
    prices.tell(told.__setitem__)
    assert told == {
        "cpu_ns_per_packet_unknown": 10.0,
        "cpu_ns_per_packet_web": pytest.approx((250 + 5000) / 125),
        "state_bytes_per_flow_window": 33 + 24,
        "state_bytes_per_flow_flow": 0,
        "state_bytes_per_flow_web": 33 + 24,
        "record_bytes_window": None,
        "record_bytes_flow": None,
        "record_bytes_web": 80.0,
    }
    prices.tell(told.__setitem__)
    assert told["cpu_ns_per_packet_web"] is told["record_bytes_web"] is None
