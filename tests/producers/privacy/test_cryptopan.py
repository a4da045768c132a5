"""Crypto-PAn against published vectors and another implementation, and what it promises."""

from __future__ import annotations

import ipaddress
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yacryptopan import CryptoPAn as Other

from producers.privacy.cryptopan import CryptoPan
from producers.privacy.keys import Key
from producers.privacy.texts import anonymised, original
from tests.producers.privacy.vectors import FOUR, KEY, OTHER, OTHER_KEY, SIX, pairs

PAN = CryptoPan(Key(KEY))
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
VERSIONS: tuple[Literal[4, 6], ...] = (4, 6)
BOTH = st.sampled_from(VERSIONS)


def networks(version: Literal[4, 6]) -> st.SearchStrategy[str]:
    bits = 32 if version == 4 else 128
    return st.builds(
        lambda address, prefix: (
            str(ipaddress.ip_network((int(address), prefix), strict=False))
            if version == 4
            else str(ipaddress.IPv6Network((int(address), prefix), strict=False))
        ),
        st.ip_addresses(v=version),
        st.integers(1, bits),
    )


def shared(a: str, b: str) -> int:
    """Return how many first bits two addresses share."""
    one, two = ipaddress.ip_address(a), ipaddress.ip_address(b)
    return one.max_prefixlen - (int(one) ^ int(two)).bit_length()


@pytest.mark.parametrize(("key", "vectors"), [(KEY, FOUR), (KEY, SIX), (OTHER_KEY, OTHER)])
def test_published_vectors(key: bytes, vectors: str) -> None:
    pan = CryptoPan(Key(key))
    found = pairs(vectors)
    assert found
    for address, expected in found:
        assert anonymised(pan, address) == str(ipaddress.ip_address(expected))
        assert original(pan, expected) == address


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32), ADDRESSES)
def test_another_implementation_says_the_same(key: bytes, address: ipaddress.IPv4Address) -> None:
    expected = ipaddress.ip_address(Other(key).anonymize(str(address)))
    assert anonymised(CryptoPan(Key(key)), str(address)) == str(expected)


def test_many_addresses_at_once_are_as_one_by_one() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, (1000, 2), dtype=np.uint64)
    for version in (4, 6):
        if version == 4:
            words &= np.array([0xFFFFFFFF << 32, 0], np.uint64)
        together, single = words.copy(), words.copy()
        PAN.anonymise(together, version)
        for row in range(len(single)):
            PAN.anonymise(single[row : row + 1], version)
        assert (together == single).all()


@given(BOTH.flatmap(lambda v: st.tuples(*[st.ip_addresses(v=v).map(str)] * 2)))
def test_addresses_share_as_many_first_bits_as_before(two: tuple[str, str]) -> None:
    a, b = two
    assert shared(anonymised(PAN, a), anonymised(PAN, b)) == shared(a, b)


@settings(max_examples=40)
@given(
    BOTH.flatmap(
        lambda v: st.tuples(
            st.lists(networks(v), max_size=3),
            st.lists(networks(v), max_size=3),
            st.lists(st.ip_addresses(v=v).map(str), min_size=2, max_size=2),
            st.integers(0, 127),
        )
    )
)
def test_named_prefixes(case: tuple[list[str], list[str], list[str], int]) -> None:
    only, keep, (a, b), near = case
    if named := [*only, *keep]:
        # Addresses in and beside a prefix are what matters; at random they would hardly be met.
        inside = ipaddress.ip_network(named[near % len(named)])
        flip = 1 << near % inside.max_prefixlen
        a = str(type(inside.network_address)(int(inside.network_address) ^ flip))
    pan = CryptoPan(Key(KEY), only, keep)

    def lies_in(address: str, prefixes: list[str]) -> list[str]:
        return [p for p in prefixes if ipaddress.ip_address(address) in ipaddress.ip_network(p)]

    assert shared(anonymised(pan, a), anonymised(pan, b)) == shared(a, b)
    for address in (a, b):
        hidden = anonymised(pan, address)
        assert original(pan, hidden) == address
        assert lies_in(hidden, keep) == lies_in(address, keep)
        if len(only) == 1:  # neighbours are taken as one
            assert lies_in(hidden, only) == lies_in(address, only)
        if lies_in(address, keep) or (only and not lies_in(address, only)):
            assert hidden == address


def test_only_hides_hosts_of_a_prefix_and_nothing_else() -> None:
    pan = CryptoPan(Key(KEY), ["10.0.0.0/8", "2001:db8::/32"])
    hidden = anonymised(pan, "10.1.2.3")
    assert hidden.startswith("10.") and hidden != "10.1.2.3"
    assert anonymised(pan, "192.0.2.1") == "192.0.2.1"
    assert (
        anonymised(pan, "2001:db8::1").startswith("2001:db8:")
        and anonymised(pan, "2001:db9::1") == "2001:db9::1"
    )


def test_keep_leaves_a_prefix_and_what_leads_to_it() -> None:
    pan = CryptoPan(Key(KEY), keep=["224.0.0.0/4"])
    assert anonymised(pan, "224.0.0.251") == "224.0.0.251"
    assert anonymised(pan, "100.1.2.3") == str(
        ipaddress.ip_address(int(ipaddress.ip_address(anonymised(PAN, "100.1.2.3"))) & 0x7FFFFFFF)
    )


def test_limits_to_prefixes_of_one_version_hold_for_the_other() -> None:
    assert anonymised(CryptoPan(Key(KEY), ["10.0.0.0/8"]), "2001:db8::1") == "2001:db8::1"


def test_a_key_does_not_show_itself() -> None:
    for thing in (Key(KEY), PAN):
        assert KEY.hex() not in repr(thing) and repr(KEY) not in repr(thing)
