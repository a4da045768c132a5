"""Which way packets go, by prefixes: against Python's own addresses."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from producers.columns import allocate
from producers.decoder.kernel import writable
from producers.probe.config import ProbeSettings
from producers.probe.ring.direction import direct_by_prefix, macs_of, parse_mac, prefixes_of
from schemas.packets import EGRESS, INGRESS, NOT_KNOWN, Extra

NETWORKS = ("10.0.0.0/8", "10.3.0.0/17", "192.0.2.128/25", "203.0.113.7/32", "2001:db8::/32", "fd00::/9")
ADDRESSES = [ipaddress.ip_network(text)[0] + step for text in NETWORKS for step in (0, 1)] + [
    ipaddress.ip_address(text)
    for text in ("9.255.255.255", "10.3.128.0", "192.0.2.127", "2001:db9::", "::a00:1")
]


def is_inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in ipaddress.ip_network(text) for text in NETWORKS)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES), st.booleans()), max_size=20
    )
)
def test_the_direction_is_that_of_the_prefixes(rows: list[tuple[object, object, bool]]) -> None:
    pairs = [(a, b, back) for a, b, back in rows if a.version == b.version]  # type: ignore[attr-defined]
    columns = allocate(len(pairs), Extra(direction=True))
    expected = []
    for row, (a, b, is_from_b) in enumerate(pairs):
        for column, address in ((columns.address_a, a), (columns.address_b, b)):
            packed = address.packed  # type: ignore[attr-defined]
            column[row, : len(packed)] = np.frombuffer(packed, np.uint8)
        columns.ip_version[row], columns.direction[row] = a.version, is_from_b  # type: ignore[attr-defined]
        source, destination = (b, a) if is_from_b else (a, b)
        left, entered = is_inside(source), is_inside(destination)  # type: ignore[arg-type]
        expected.append(NOT_KNOWN if left == entered else EGRESS if left else INGRESS)
    direct_by_prefix(writable(columns), len(pairs), prefixes_of(NETWORKS))
    assert columns.flow_direction.tolist() == expected


def test_mac_addresses_are_read_in_both_spellings() -> None:
    assert macs_of(["02:00:5E:10:00:01", "02-00-5e-10-00-02"]).tolist() == [0x02005E100001, 0x02005E100002]
    with pytest.raises(ValueError, match="is no MAC address"):
        parse_mac("02:00:5e:10:00")


@pytest.mark.parametrize(
    "wrong",
    [
        {"direction": "mac"},
        {"direction": "prefix"},
        {"direction_macs": ("x",)},
        {"direction_prefixes": ("10.0.0.1/8",)},
        {"block_kbytes": 100},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ProbeSettings.model_validate(wrong)
