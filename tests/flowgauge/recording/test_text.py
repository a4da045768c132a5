"""Texts made by the kernel are those that Python makes."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

from flowgauge.recording.text import address_array, flow_id_array

six = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.lists(st.sampled_from([0, 0, 0, 1, 0x10, 0x100, 0xABCD]), min_size=8, max_size=8).map(
        lambda groups: b"".join(group.to_bytes(2, "big") for group in groups)
    ),
)
address = st.one_of(
    st.binary(min_size=4, max_size=4).map(ipaddress.IPv4Address), six.map(ipaddress.IPv6Address)
).filter(lambda found: getattr(found, "ipv4_mapped", None) is None)  # Python 3.13 writes those with dots


@settings(deadline=None)  # the first call compiles
@given(st.lists(address, max_size=20))
def test_addresses_read_as_python_writes_them(
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    raw = np.frombuffer(b"".join(a.packed.ljust(16, b"\0") for a in found), np.uint8).reshape(-1, 16)
    version = np.array([a.version for a in found], np.uint8)
    assert address_array(raw, version).to_pylist() == [str(a) for a in found]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_flow_ids_are_sixteen_digits(found: list[int]) -> None:
    assert flow_id_array(np.array(found, np.uint64)).to_pylist() == [f"{value:016x}" for value in found]
