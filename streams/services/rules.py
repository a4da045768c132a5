"""The rules of all services, made ready: names by suffix, prefixes as intervals, ports as a table.

Order, where several rules fit: what a name says comes before prefixes, prefixes before ports. Of domains the
longest counts, then patterns in the order of the settings; of prefixes the longest. Where two services have the
very same rule, the first in the settings has it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.services.config import ServiceSettings, port_range

UNKNOWN = 0
"""Number of no service; services count from 1 in the order of the settings."""


class Rules(NamedTuple):
    """What the kernel looks up when a flow begins; a named tuple, so that Numba takes it.

    Intervals are sorted by their first address; rule 0 stands for none.
    """

    start4: NDArray[np.uint64]
    rule4: NDArray[np.uint32]
    high6: NDArray[np.uint64]
    low6: NDArray[np.uint64]
    rule6: NDArray[np.uint32]
    port_rule: NDArray[np.uint32]
    """(2, 65536): TCP, UDP"""
    service_of: NDArray[np.uint16]
    """Service by rule."""
    hits: NDArray[np.int64]
    """Flows by rule."""


class RuleBook:
    """The rules that count for one probe.

    Args:
        services: all services, in the order of the settings.
        probe: name of the probe.
    """

    def __init__(self, services: Sequence[ServiceSettings], probe: str) -> None:
        self.texts = [""]
        """Rules as text, by number."""
        self.shadowed: list[str] = []
        """Rules that can never match, one line each."""
        self._domains: dict[str, int] = {}
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        self._service_of = [UNKNOWN]
        prefixes: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, int] = {}
        port_rule = np.zeros((2, 1 << 16) if services else (2, 0), np.uint32)
        for number, service in enumerate(services, 1):
            if service.probes and probe not in service.probes:
                continue
            for domain in service.domains:
                self._enter(self._domains, domain, number, service.name, f"domain {domain}")
            for pattern in service.patterns:
                rule = self._rule(number, f"{service.name}: pattern {pattern}")
                self._patterns.append((re.compile(pattern), rule))
            for prefix in service.prefixes:
                network = ipaddress.ip_network(prefix)
                self._enter(prefixes, network, number, service.name, f"prefix {prefix}")
            for port in service.ports:
                self._enter_port(port_rule, port, number, service.name)
        start4, _, rule4 = _intervals([(n, r) for n, r in prefixes.items() if n.version == 4], 32)
        high6, low6, rule6 = _intervals([(n, r) for n, r in prefixes.items() if n.version == 6], 128)
        self.rules = Rules(
            start4, rule4, high6, low6, rule6, port_rule,
            np.array(self._service_of, np.uint16), np.zeros(len(self._service_of), np.int64),
        )  # fmt: skip

    def service_of_name(self, name: str) -> int:
        """Return the number of the service that a name belongs to, and count that; UNKNOWN where there is none."""
        rule = self._rule_of_name(name)
        if rule:
            self.rules.hits[rule] += 1
        return self._service_of[rule]

    def unused(self) -> list[str]:
        """Return the rules that no flow and no name has matched yet."""
        return [
            text for text, hits in zip(self.texts[1:], self.rules.hits[1:].tolist(), strict=True) if not hits
        ]

    def _rule_of_name(self, name: str) -> int:
        suffix = name
        while suffix:
            rule = self._domains.get(suffix)
            if rule is not None:
                return rule
            suffix = suffix.partition(".")[2]
        for pattern, rule in self._patterns:
            if pattern.fullmatch(name):
                return rule
        return UNKNOWN

    def _rule(self, service: int, text: str) -> int:
        self._service_of.append(service)
        self.texts.append(text)
        return len(self.texts) - 1

    def _enter(self, table: dict[Any, int], key: Any, service: int, name: str, text: str) -> None:
        if key in table:
            first = self.texts[table[key]].partition(":")[0]
            self.shadowed.append(f"{name}: {text} never matches: {first} has it before")
        else:
            table[key] = self._rule(service, f"{name}: {text}")

    def _enter_port(self, table: NDArray[np.uint32], port: str | int, service: int, name: str) -> None:
        protocol, first, last = port_range(port)
        rule = self._rule(service, f"{name}: port {port}")
        is_used = False
        for row in {"tcp": (0,), "udp": (1,), "": (0, 1)}[protocol]:
            free = table[row, first : last + 1] == 0
            table[row, first : last + 1][free] = rule
            is_used |= bool(free.any())
        if not is_used:
            self.shadowed.append(f"{name}: port {port} never matches: services before have it")


def _intervals(
    prefixes: Sequence[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int]], bits: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
    """Return prefixes as intervals in which the longest one counts: first addresses (high, low half), rules.

    IPv4 addresses stand in the high half.
    """
    starts: list[int] = [0]
    rules: list[int] = [0]
    stack: list[tuple[int, int]] = []

    def begin(at: int, rule: int) -> None:
        if starts[-1] == at:
            rules[-1] = rule
        else:
            starts.append(at)
            rules.append(rule)

    def close(until: int) -> None:
        while stack and stack[-1][0] <= until:
            end, _ = stack.pop()
            begin(end, stack[-1][1] if stack else 0)

    for network, rule in sorted(prefixes, key=lambda p: (int(p[0].network_address), p[0].prefixlen)):
        first = int(network.network_address)
        close(first)
        begin(first, rule)
        stack.append((first + network.num_addresses, rule))
    close(1 << bits)
    if starts[-1] == 1 << bits:
        del starts[-1], rules[-1]
    shift = 64 if bits == 128 else 0
    high = np.array([start >> shift for start in starts], np.uint64)
    low = np.array([start & 0xFFFFFFFFFFFFFFFF for start in starts], np.uint64)
    return high, low, np.array(rules, np.uint32)
