"""Settings of a service: how its flows are told, and what is computed about them."""

from __future__ import annotations

import ipaddress
import re

from pydantic import Field, field_validator, model_validator

from producers.names.text import host_name
from schemas.settings import Settings

_PORT = re.compile(r"(?:(tcp|udp)/)?(\d{1,5})(?:-(\d{1,5}))?")


class ServiceSettings(Settings):
    """A service: any one of its domains, patterns, prefixes and ports makes a flow its own."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,40}$",
        description="Name of the service: lower-case letters, digits and underscores. With `collect` it names a "
        "representation too, with the topic features.<name>.",
    )
    domains: tuple[str, ...] = Field(
        default=(), description="Domains: a name matches that is one of them, or below one of them."
    )
    patterns: tuple[str, ...] = Field(
        default=(),
        description="Regular expressions (Python's) for names that no domain matches; whole names.",
    )
    prefixes: tuple[str, ...] = Field(
        default=(), description="IPv4 and IPv6 prefixes of servers, such as 192.0.2.0/24; the longest counts."
    )
    ports: tuple[str | int, ...] = Field(
        default=(), description='Ports of servers: 443 (TCP and UDP), "udp/3478", "tcp/8000-8010".'
    )
    probes: tuple[str, ...] = Field(
        default=(), description="Only flows that one of these probes has seen; none named: of all probes."
    )
    collect: tuple[str, ...] = Field(
        default=(), description="Features computed for flows of this service only; none: no representation."
    )
    every_s: float = Field(
        default=10.0, ge=0.01, le=3600, description="Time between two rows of what is collected, in seconds."
    )

    @field_validator("domains")
    @classmethod
    def _domains_are_names(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_domain(text) for text in domains)

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for text in patterns:
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"{text!r} is no regular expression: {error}") from error
        return patterns

    @field_validator("prefixes")
    @classmethod
    def _prefixes_are_networks(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for text in prefixes:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"{text!r} is no prefix: {error}") from error
        return prefixes

    @field_validator("ports")
    @classmethod
    def _ports_are_ports(cls, ports: tuple[str | int, ...]) -> tuple[str | int, ...]:
        for text in ports:
            port_range(text)
        return ports

    @model_validator(mode="after")
    def _has_a_rule(self) -> ServiceSettings:
        if not (self.domains or self.patterns or self.prefixes or self.ports):
            raise ValueError(f"service {self.name!r} has no domain, pattern, prefix or port")
        return self


def _domain(text: str) -> str:
    name = host_name(
        text.removeprefix("*.").removeprefix(".").encode("idna" if not text.isascii() else "ascii")
    )
    if name is None:
        raise ValueError(f"{text!r} is no domain")
    return name


def port_range(text: str | int) -> tuple[str, int, int]:
    """Return (tcp, udp or nothing for both; first port; last port) of a rule; raises ValueError."""
    found = _PORT.fullmatch(str(text))
    if found:
        protocol, first, last = found[1] or "", int(found[2]), int(found[3] or found[2])
        if 0 < first <= last <= 65_535:
            return protocol, first, last
    raise ValueError(f'{text!r} is no port: 443, "udp/3478" or "tcp/8000-8010" are')
