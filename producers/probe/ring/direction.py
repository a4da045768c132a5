"""Which way packets cross the observation point: told by the kernel, by MAC addresses or by prefixes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from schemas.compiled import compiled
from schemas.packets import EGRESS, INGRESS, NOT_KNOWN

BY_INTERFACE, BY_MAC = 0, 1
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


class Prefixes(NamedTuple):
    """Prefixes as the addresses' two words see them; one row each."""

    version: NDArray[np.uint8]
    mask: NDArray[np.uint64]
    """(rows, 2)"""
    value: NDArray[np.uint64]
    """(rows, 2)"""


def parse_mac(text: str) -> int:
    """Return a MAC address as a number; raises ValueError."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{text!r} is no MAC address, as 02:00:5e:10:00:01")
    return int(re.sub("[:-]", "", text), 16)


def macs_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return MAC addresses as the ring's walk compares them."""
    return np.array([parse_mac(text) for text in texts], np.int64)


def prefixes_of(texts: Sequence[str]) -> Prefixes:
    """Return prefixes for ``direct_by_prefix``; raises ValueError."""
    networks = [ipaddress.ip_network(text) for text in texts]
    octets = np.zeros((2, len(networks), 16), np.uint8)
    for row, network in enumerate(networks):
        for kind, address in enumerate((network.netmask, network.network_address)):
            octets[kind, row, : network.max_prefixlen // 8] = list(address.packed)
    words = octets.view(np.uint64)
    return Prefixes(np.array([n.version for n in networks], np.uint8), words[0], words[1])


@compiled
def _is_inside(prefixes: Prefixes, version: int, first: np.uint64, second: np.uint64) -> bool:
    for i in range(len(prefixes.version)):
        if (
            prefixes.version[i] == version
            and first & prefixes.mask[i, 0] == prefixes.value[i, 0]
            and second & prefixes.mask[i, 1] == prefixes.value[i, 1]
        ):
            return True
    return False


@compiled
def direct_by_prefix(columns: PacketColumns, rows: int, prefixes: Prefixes) -> None:
    """Fill in the direction of the first rows: egress leaves all prefixes, ingress enters one of them.

    The columns are ``writable`` ones. What stays inside or outside has no direction.
    """
    a, b = columns.address_a, columns.address_b
    for row in range(rows):
        version = columns.ip_version[row]
        from_inside = _is_inside(prefixes, version, a[row, 0], a[row, 1])
        to_inside = _is_inside(prefixes, version, b[row, 0], b[row, 1])
        if columns.direction[row]:
            from_inside, to_inside = to_inside, from_inside
        if from_inside == to_inside:
            columns.flow_direction[row] = NOT_KNOWN
        else:
            columns.flow_direction[row] = EGRESS if from_inside else INGRESS
