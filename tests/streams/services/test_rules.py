from __future__ import annotations

import ipaddress
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streams.services.config import ServiceSettings, port_range
from streams.services.kernel import prefix_rule
from streams.services.rules import RuleBook

VIDEO = ServiceSettings(
    name="video",
    domains=("example.com", "cdn.example.net"),
    patterns=(r"v\d+\.example\.org",),
    ports=("tcp/80",),
)
OTHER = ServiceSettings(name="other", domains=("deep.example.com", "example.com", "net"), ports=("80",))


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("example.com", 1),
        ("www.example.com", 1),
        ("badexample.com", 0),
        ("example.com.evil.org", 0),
        ("deep.example.com", 2),
        ("a.deep.example.com", 2),
        ("cdn.example.net", 1),
        ("example.net", 2),
        ("v12.example.org", 1),
        ("v12.example.org.evil.com", 0),
        ("xv12.example.org", 0),
    ],
)
def test_the_longest_suffix_counts_then_patterns(name: str, service: int) -> None:
    assert RuleBook((VIDEO, OTHER), "p").service_of_name(name) == service


def test_a_rule_that_can_never_match_is_told() -> None:
    book = RuleBook((VIDEO, OTHER), "p")
    assert book.shadowed == ["other: domain example.com never matches: video has it before"]
    same = ServiceSettings(name="same", ports=("tcp/80",), prefixes=("192.0.2.0/24", "192.0.2.0/24"))
    assert RuleBook((VIDEO, OTHER, same), "p").shadowed[1:] == [
        "same: prefix 192.0.2.0/24 never matches: same has it before",
        "same: port tcp/80 never matches: services before have it",
    ]


def test_rules_that_matched_nothing_are_told() -> None:
    book = RuleBook((VIDEO,), "p")
    book.service_of_name("www.example.com")
    assert book.unused() == [
        "video: domain cdn.example.net",
        r"video: pattern v\d+\.example\.org",
        "video: port tcp/80",
    ]


def test_a_service_of_another_probe_has_no_rules() -> None:
    there = ServiceSettings(name="there", domains=("example.com",), probes=("gateway-2",))
    assert RuleBook((there,), "gateway-1").service_of_name("example.com") == 0
    assert RuleBook((there,), "gateway-2").service_of_name("example.com") == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), version=st.sampled_from([4, 6]))
def test_the_longest_prefix_counts(seed: int, version: int) -> None:
    draw = random.Random(seed)
    bits = 32 if version == 4 else 128
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    # Few different bits, so that prefixes lie in one another; the edges of the address space among them.
    base = [draw.choice([0, (1 << bits) - 1, draw.getrandbits(bits)]) for _ in range(3)]
    prefixes = [
        kind((draw.choice(base) ^ (draw.getrandbits(4) << (bits - 8)), draw.randint(0, bits)), strict=False)
        for _ in range(draw.randrange(12))
    ]
    services = tuple(
        ServiceSettings(name=f"s{n}", prefixes=(str(prefix),), ports=("1",))
        for n, prefix in enumerate(prefixes)
    )
    book = RuleBook(services, "p")
    probes = [
        int(p.network_address) + d for p in prefixes for d in (-1, 0, p.num_addresses - 1, p.num_addresses)
    ]
    for value in (*probes, *base):
        address = (ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(value % (1 << bits))
        fits = [(p.prefixlen, -n) for n, p in enumerate(prefixes) if address in p]
        wanted = 1 - max(fits)[1] if fits else 0
        w0, w1 = np.frombuffer(address.packed.ljust(16, b"\0"), np.uint64)
        assert book.rules.service_of[prefix_rule(book.rules, w0, w1, version)] == wanted


@pytest.mark.parametrize(
    ("text", "found"), [("443", ("", 443, 443)), (53, ("", 53, 53)), ("udp/1-9", ("udp", 1, 9))]
)
def test_ports(text: str | int, found: tuple[str, int, int]) -> None:
    assert port_range(text) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"domains": ["no name"]},
        {"patterns": ["("]},
        {"prefixes": ["192.0.2.1/24"]},
        {"ports": ["0"]},
        {"ports": ["9-1"]},
        {"ports": ["sctp/1"]},
        {"ports": ["65536"]},
        {"ports": [1], "name": "Video"},
    ],
)
def test_settings_that_make_no_service(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ServiceSettings.model_validate({"name": "s", **wrong})


def test_many_rules() -> None:
    """50,000 domains and 10,000 prefixes: each is found."""
    domains = tuple(f"d{n}.example" for n in range(50_000))
    prefixes = tuple(f"{10 + n // 2560}.{n // 10 % 256}.{n % 10 * 16}.0/22" for n in range(10_000))
    book = RuleBook((ServiceSettings(name="s", domains=domains, prefixes=prefixes),), "p")
    assert book.service_of_name("www.d49999.example") == 1
    assert book.service_of_name("www.d50000.example") == 0
    w0, w1 = np.frombuffer(ipaddress.ip_address("10.0.17.9").packed.ljust(16, b"\0"), np.uint64)
    assert book.rules.service_of[prefix_rule(book.rules, w0, w1, 4)] == 1
