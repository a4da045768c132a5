"""What every feature keeps to, whoever wrote it. A new file in streams/features/ is tested here by itself."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.feature import Feature, Packet, Totals, available_features, load_feature, load_feature_module
from streams.feature_check import check_module
from streams.kernel_check import check_in_kernel

DEPTHS = (1, 8, 64)
SENTINEL = np.float32(-12345.5)

amounts = st.one_of(st.sampled_from([0, 1, 40, 1500, 65535, 65536, 2**32 - 1]), st.integers(0, 2**32 - 1))
gaps = st.one_of(
    st.sampled_from([0, 1, 999, 1_000_000, 60 * 10**9, 1 << 61, 1 << 62]), st.integers(0, 1 << 62)
)
packets_of = st.lists(
    st.builds(
        Packet,
        gap_ns=gaps,
        octets=amounts,
        payload_octets=st.just(0),
        direction=st.integers(0, 1),
        tcp_flags=st.integers(0, 255),
        time_ns=st.integers(0, 1 << 62),
        protocol=st.sampled_from([6, 17]),
        has_sequence=st.booleans(),
        tcp_sequence=st.integers(0, 2**32 - 1),
        tcp_acknowledgment=st.integers(0, 2**32 - 1),
        tcp_window=st.integers(0, 65535),
        ttl=st.integers(0, 255),
        depth=st.just(0),
    ),
    min_size=1,
    max_size=70,
)


def numbered(packets: list[Packet]) -> list[Packet]:
    return [
        p._replace(depth=i, gap_ns=0 if i == 1 else p.gap_ns, payload_octets=max(0, p.octets - 40))
        for i, p in enumerate(packets, 1)
    ]


def totals_of(packets: list[Packet]) -> Totals:
    way = [[p.octets for p in packets if p.direction == d] for d in (0, 1)]
    span = min(sum(p.gap_ns for p in packets), 1 << 62)
    return Totals(len(way[0]), len(way[1]), sum(way[0]), sum(way[1]), span, 6, 4)


class Alone:
    """A feature with one state, outside a kernel."""

    def __init__(self, name: str, depth: int) -> None:
        self.feature: Feature = load_feature(name)
        module = import_module(f"streams.features.{name}")
        self.update, self.emit = getattr(module, "update", None), module.emit
        self.depth = depth
        self.width = len(self.feature.columns(depth))
        self.states = np.zeros(1, self.feature.dtype(depth) if self.feature.state(depth) else "u1")

    def feed(self, packets: list[Packet]) -> None:
        for packet in packets:
            if self.update and (packet.has_sequence or not self.feature.needs(self.depth).tcp):
                self.update(self.states[0], packet)

    def values(self, totals: Totals, room: int = 3) -> Any:
        out = np.full(self.width + 2 * room, SENTINEL, np.float32)
        self.emit(self.states[0], totals, out, room)
        assert (out[:room] == SENTINEL).all(), "wrote before its columns"
        assert (out[room + self.width :] == SENTINEL).all(), "wrote behind its columns"
        return out[room : room + self.width]

    def reload(self) -> None:
        self.states = np.frombuffer(bytearray(self.states.tobytes()), self.states.dtype).copy()


@pytest.mark.parametrize("name", available_features())
def test_it_declares_itself(name: str) -> None:
    feature = load_feature(name)
    module = import_module(f"streams.features.{name}")
    assert feature.name == name
    assert feature.doc
    assert (module.__doc__ or "").strip()
    assert len(inspect.getsource(module).splitlines()) < 150
    for depth in DEPTHS:
        columns = feature.columns(depth)
        assert columns
        assert len({c.name for c in columns}) == len(columns)
        for c in columns:
            assert c.name.isidentifier()
            assert c.unit
            assert c.doc
        assert (hasattr(module, "update") or hasattr(module, "update_head")) == bool(feature.state(depth))
        assert feature.level in ("network", "transport", "application")


@pytest.mark.parametrize("name", available_features())
def test_it_passes_the_battery_that_users_have(name: str) -> None:
    assert check_module(load_feature_module(name)) == []


def test_all_together_give_the_same_rows_however_packets_are_cut_and_saved() -> None:
    assert check_in_kernel(tuple(n for n in available_features() if not n.startswith("header_bits"))) == []


def test_header_bits_give_the_same_rows_however_packets_are_cut_and_saved() -> None:
    """By themselves: they have ten thousand columns."""
    assert check_in_kernel(("header_bits",)) == []


def test_columns_of_all_features_together_have_names_of_their_own() -> None:
    names = [c.name for f in available_features() for c in load_feature(f).columns(8)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", available_features())
def test_state_is_bounded_and_packed(name: str) -> None:
    feature = load_feature(name)
    for depth in range(1, 65):
        if not feature.state(depth):
            continue
        dtype = feature.dtype(depth)
        fields = dtype.fields
        assert fields is not None
        assert dtype.itemsize == sum(kind.itemsize for kind, *_ in fields.values()), (
            "padding is paid per flow"
        )
        assert not dtype.hasobject
        assert dtype.itemsize <= 1536


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", available_features())
@settings(max_examples=15, deadline=None)
@given(packets=packets_of, part=st.integers(0, 70))
def test_values_are_finite_repeatable_and_survive_a_saved_state(
    name: str, depth: int, packets: list[Packet], part: int
) -> None:
    packets = numbered(packets)
    totals = totals_of(packets)
    one, other = Alone(name, depth), Alone(name, depth)
    one.feed(packets)
    values = one.values(totals)
    assert not (values == SENTINEL).any(), "left a column unwritten"
    assert np.isfinite(values).all()
    assert one.values(totals).tobytes() == values.tobytes(), "emitting changed the state"
    other.feed(packets[:part])
    other.values(totals_of(packets[:part] or packets[:1]))
    other.reload()
    other.feed(packets[part:])
    assert other.values(totals).tobytes() == values.tobytes()


@pytest.mark.parametrize("name", available_features())
def test_a_state_without_packets_gives_finite_values(name: str) -> None:
    values = Alone(name, 8).values(Totals(0, 0, 0, 0, 0, 17, 6))
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", available_features())
def test_many_equal_packets_do_not_drift(name: str) -> None:
    """Counters must neither overflow nor lose a constant to rounding."""
    alone = Alone(name, 8)
    if not alone.update:
        return
    packet = Packet(1_000_000, 1500, 1460, 0, 16, 1000, 64, 2)
    alone.feed([packet._replace(depth=1, gap_ns=0), *[packet] * 20_000])
    values = dict(
        zip(
            [c.name for c in alone.feature.columns(8)],
            alone.values(Totals(20_001, 0, 20_001 * 1500, 0, 20_000 * 1_000_000, 6, 4)).tolist(),
            strict=True,
        )
    )
    for column, value in {"octets_mean": 1500.0, "octets_std": 0.0, "gap_mean_us": 1000.0}.items():
        assert values.get(column, value) == value
