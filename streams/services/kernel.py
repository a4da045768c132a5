"""Which service a flow belongs to, compiled: called when a flow begins, and where a packet tells a name.

``streams.services.nothing`` has the same functions, which do nothing: kernels of settings without services take those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled, inner
from schemas.flow_key import TCP, UDP
from schemas.packets import NameSource
from streams.services.named import BatchNames
from streams.services.rules import Rules
from streams.table import REVERSED

_DNS = int(NameSource.DNS)
BY_PREFIX, BY_PORT = 5, 6
NOTHING_CARRIED = (np.int64(0), np.int64(0), np.int64(0))
_8, _16, _32 = np.uint64(8), np.uint64(16), np.uint64(32)
_BYTES, _PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@inner
def _big(word: np.uint64) -> np.uint64:
    """Return a word with its bytes in the other order: addresses in the order of their numbers."""
    word = ((word >> _8) & _BYTES) | ((word & _BYTES) << _8)
    word = ((word >> _16) & _PAIRS) | ((word & _PAIRS) << _16)
    return (word >> _32) | (word << _32)


@inner
def _last4(starts: NDArray[np.uint64], address: np.uint64) -> int:
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) >> 1
        if starts[middle] <= address:
            low = middle
        else:
            high = middle
    return low


@inner
def _last6(rules: Rules, first: np.uint64, second: np.uint64) -> int:
    highs, lows = rules.high6, rules.low6
    low, high = 0, len(highs)
    while high - low > 1:
        middle = (low + high) >> 1
        if highs[middle] < first or (highs[middle] == first and lows[middle] <= second):
            low = middle
        else:
            high = middle
    return low


@compiled
def prefix_rule(rules: Rules, w0: np.uint64, w1: np.uint64, version: int) -> int:
    """Return the rule of the longest prefix that an address, as two little-endian words, lies in; 0: none."""
    if version == 4:
        return int(rules.rule4[_last4(rules.start4, _big(w0) >> _32)])
    return int(rules.rule6[_last6(rules, _big(w0), _big(w1))])


@inner
def by_address(r: Any, rules: Rules) -> tuple[int, int]:
    """Return (service, how it was found) of a flow by prefix and port: its destination's, else its source's."""
    first, second = (r.b0, r.b1), (r.a0, r.a1)
    first_port, second_port = r.port_b, r.port_a
    if r.marks & REVERSED:
        first, second, first_port, second_port = second, first, second_port, first_port
    found = BY_PREFIX
    rule = prefix_rule(rules, first[0], first[1], r.ip_version)
    if rule == 0:
        rule = prefix_rule(rules, second[0], second[1], r.ip_version)
    if rule == 0 and (r.protocol == TCP or r.protocol == UDP):
        found = BY_PORT
        row = 0 if r.protocol == TCP else 1
        rule = int(rules.port_rule[row, first_port])
        if rule == 0:
            rule = int(rules.port_rule[row, second_port])
    if rule == 0:
        return 0, 0
    rules.hits[rule] += 1
    return int(rules.service_of[rule]), found


@inner
def carry_service(r: Any) -> tuple[int, int, int]:
    """Return what a flow that goes on after its active timeout keeps."""
    return np.int64(r.service), np.int64(r.service_found_by), np.int64(r.server_name)  # type: ignore[return-value]


@inner
def begin_service(r: Any, carried: tuple[int, int, int], rules: Rules, usage: NDArray[np.int64]) -> None:
    """Assign a flow that begins."""
    if carried[2]:
        r.service, r.service_found_by, r.server_name = carried
    else:
        service, found = by_address(r, rules)
        r.service, r.service_found_by = service, found
    usage[r.service, 2] += 1


@inner
def first_name(names: BatchNames, start: int) -> int:
    """Return the number of the first name told at packet ``start`` or later."""
    naming = 0
    while naming < len(names.packet) and names.packet[naming] < start:
        naming += 1
    return naming


@inner
def is_named(names: BatchNames, naming: int, packet: int) -> bool:
    """Return whether the name of that number is told at that packet."""
    return naming < len(names.packet) and int(names.packet[naming]) == packet


@inner
def named_service(r: Any, names: BatchNames, naming: int, rules: Rules) -> tuple[int, int, int]:
    """Return (service, how it was found, name) of a flow for which a name was told; (-1, 0, 0): it does not count.

    What DNS told counts at a flow's first packet only, so that it does not matter how packets were cut into
    batches; what a flow says itself takes its place.
    """
    service, source = np.int64(names.service[naming]), np.int64(names.source[naming])
    name = np.int64(names.name[naming])
    if source == _DNS and (r.packets_fwd or r.packets_rev or r.server_name):
        return -1, 0, 0
    if service:
        return service, source, name  # type: ignore[return-value]
    if r.service_found_by == _DNS:
        service, source = by_address(r, rules)  # type: ignore[assignment]
        return service, source, name  # type: ignore[return-value]
    return int(r.service), int(r.service_found_by), name  # type: ignore[return-value]


@inner
def set_service(r: Any, service: int, found: int, name: int, usage: NDArray[np.int64]) -> None:
    """Give a flow a service and a name; the flow counts for its new service from then on."""
    if service != r.service:
        usage[service, 2] += 1
        usage[r.service, 2] -= 1
    r.service, r.service_found_by, r.server_name = service, found, name


@inner
def has_service(r: Any, service: int) -> bool:
    """Return whether a flow belongs to that service."""
    return int(r.service) == service


@inner
def count_service(r: Any, octets: int, usage: NDArray[np.int64]) -> None:
    """Count a packet for its flow's service."""
    usage[r.service, 0] += 1
    usage[r.service, 1] += octets


@inner
def write_service(identity: Any, r: Any) -> None:
    """Put a flow's service into one of its rows."""
    identity.service = r.service
    identity.service_found_by = r.service_found_by
    identity.server_name = r.server_name
