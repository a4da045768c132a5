"""Addresses and prefixes as texts, to what a probe makes of them and back: for people and settings, not for packets."""

from __future__ import annotations

import ipaddress

import numpy as np
from numpy.typing import NDArray

from producers.privacy.cryptopan import CryptoPan


def anonymised(pan: CryptoPan, text: str) -> str:
    """Return an address or prefix anonymised; raises ValueError for any other text."""
    network = ipaddress.ip_network(text)
    return _text(network, _anonymised(pan, int(network.network_address), network.version))


def original(pan: CryptoPan, text: str) -> str:
    """Return the address or prefix that was anonymised to this one; raises ValueError for any other text."""
    network = ipaddress.ip_network(text)
    bits, wanted, found = network.max_prefixlen, int(network.network_address), 0
    for bit in range(bits - 1, -1, -1):
        # What a bit is flipped by depends on the bits before it, which are found already.
        found |= (wanted ^ _anonymised(pan, found, network.version) ^ found) & (1 << bit)
    return _text(network, found)


def _text(network: ipaddress.IPv4Network | ipaddress.IPv6Network, address: int) -> str:
    bits = network.max_prefixlen
    address = address >> (bits - network.prefixlen) << (bits - network.prefixlen)
    found = ipaddress.IPv4Address(address) if network.version == 4 else ipaddress.IPv6Address(address)
    return str(found) if network.prefixlen == bits else f"{found}/{network.prefixlen}"


def _anonymised(pan: CryptoPan, address: int, version: int) -> int:
    shift = 96 if version == 4 else 0
    address <<= shift
    words: NDArray[np.uint64] = np.array([[address >> 64, address & 0xFFFFFFFFFFFFFFFF]], np.uint64)
    pan.anonymise(words, version)
    return (int(words[0, 0]) << 64 | int(words[0, 1])) >> shift
