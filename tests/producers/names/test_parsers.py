from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.names.dns import DnsAnswer, parse_answer
from producers.names.http import name_in_request
from producers.names.quic import (
    VERSION_1,
    VERSION_2,
    QuicHello,
    client_keys,
    crypto_parts,
    decrypt,
    find_initials,
)
from producers.names.text import Verdict, host_name
from producers.names.tls import name_in_hello, name_in_stream
from tests.producers.names.hellos import (
    RFC_FRAMES,
    RFC_ID,
    a,
    crypto,
    dns,
    hello,
    initial,
    label,
    record,
    records,
)

QUESTION = b"\xc0\x0c"
MORE, NOTHING = Verdict.MORE, Verdict.NOTHING


class TestNames:
    @pytest.mark.parametrize(
        ("raw", "name"),
        [
            (b"WWW.Example.com.", "www.example.com"),
            (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
            (b"_dmarc.example.org", "_dmarc.example.org"),
            (b"192.0.2.1", None),
            (b"a b.example", None),
            (b'x".example', None),
            (b"a..b", None),
            (b"", None),
            (b".", None),
            (b"a" * 64, None),
            (b"a." * 130 + b"b", None),
            (b"line\nfeed", None),
        ],
    )
    def test_only_host_names_pass(self, raw: bytes, name: str | None) -> None:
        assert host_name(raw) == name


class TestDns:
    def test_all_addresses_of_an_answer(self) -> None:
        message = dns(
            "www.Example.com",
            a(QUESTION, "192.0.2.1"),
            a(QUESTION, "192.0.2.2", 60),
            a(QUESTION, "192.0.2.1"),
        )
        assert parse_answer(message) == DnsAnswer(
            "www.example.com", (b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"), 60
        )

    def test_a_chain_of_aliases_in_any_order(self) -> None:
        message = dns(
            "video.example",
            a(label("edge.cdn.example"), "2001:db8::7", 20),
            record(label("cdn.example"), 5, label("edge.cdn.example"), 10),
            record(QUESTION, 5, label("cdn.example"), 3600),
            a(label("other.example"), "192.0.2.9"),
            kind=28,
        )
        found = parse_answer(message)
        assert found == DnsAnswer("video.example", (bytes.fromhex("20010db8000000000000000000000007"),), 10)

    def test_aliases_in_a_circle_end(self) -> None:
        assert (
            parse_answer(
                dns(
                    "a.example",
                    record(QUESTION, 5, label("b.example")),
                    record(label("b.example"), 5, QUESTION),
                )
            )
            is None
        )

    @pytest.mark.parametrize(
        "flags", [0x0100, 0x8183, 0x8182, 0xA180], ids=["question", "no such name", "failure", "notify"]
    )
    def test_what_is_no_answer(self, flags: int) -> None:
        assert parse_answer(dns("a.example", a(QUESTION, "192.0.2.1"), flags=flags)) is None

    def test_names_that_point_at_themselves_or_ahead(self) -> None:
        assert parse_answer(dns("a.example", a(b"\xc0\x1b", "192.0.2.1"))) is None
        assert parse_answer(dns("a.example", a(b"\xc0\xff", "192.0.2.1"))) is None

    def test_what_came_before_a_cut_counts(self) -> None:
        message = dns("a.example", a(QUESTION, "192.0.2.1"), a(QUESTION, "192.0.2.2"))
        found = parse_answer(message[:-3])
        assert found is not None and found.addresses == (b"\xc0\0\x02\x01",)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        parse_answer(data)
        parse_answer(b"\0\x01\x81\x80\0\x01\0\x03\0\0\0\0" + data)

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 120), st.integers(0, 255))
    def test_one_wrong_byte(self, at: int, value: int) -> None:
        message = bytearray(
            dns("a.b.example", record(QUESTION, 5, label("c.example")), a(label("c.example"), "192.0.2.1"))
        )
        message[at % len(message)] = value
        found = parse_answer(bytes(message))
        assert found is None or (found.name and all(len(x) in (4, 16) for x in found.addresses))


class TestTls:
    @given(st.lists(st.integers(1, 60), max_size=6), st.integers(0, 400))
    def test_a_hello_in_several_records(self, sizes: list[int], padding: int) -> None:
        assert name_in_stream(records(hello(b"www.example.com", padding), tuple(sizes))) == "www.example.com"

    def test_every_shorter_part_waits_for_more(self) -> None:
        whole = records(hello(b"example.com"), (5, 40))
        verdicts = [name_in_stream(whole[:n]) for n in range(len(whole))]
        assert set(verdicts) == {MORE}
        assert name_in_stream(whole) == "example.com"

    @pytest.mark.parametrize(
        "data",
        [
            records(hello(None)),
            records(hello(b"192.0.2.1")),
            records(hello(b"")),
            b"\x17\x03\x03\0\x05hello",
            b"\x16\x02\0\0\x05hello",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\x7f\xff" + bytes(10),
            records(b"\x02" + hello(b"example.com")[1:]),
            records(b"\x01\xff\xff\xff" + bytes(100)),
        ],
    )
    def test_what_has_no_name(self, data: bytes) -> None:
        assert name_in_stream(data) is NOTHING

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=200), st.integers(0, 200))
    def test_any_bytes(self, data: bytes, keep: int) -> None:
        whole = hello(b"www.example.com", 20)
        for read in (name_in_hello, name_in_stream):
            for text in (data, whole[:keep] + data, records(whole)[:keep] + data):
                assert isinstance(read(text), (str, Verdict))


class TestHttp:
    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"GET / HTTP/1.1\r\nAccept: */*\r\nHOST:  Www.Example.com:8080 \r\n\r\n", "www.example.com"),
            (b"GET / HTTP/1.1\r\nHost: example.com\r\n", "example.com"),
            (b"GET / HTTP/1.1\r\nHost: example.c", MORE),
            (b"GET / HT", MORE),
            (b"GET / HTTP/1.0\r\n\r\n", NOTHING),
            (b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", NOTHING),
            (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", NOTHING),
            (b"GET something else\r\nHost: example.com\r\n\r\n", NOTHING),
            (b"GET / HTTP/1.1\r\nA: " + b"x" * 9000, NOTHING),
        ],
    )
    def test_the_host_of_a_request(self, data: bytes, found: str | Verdict) -> None:
        assert name_in_request(data) == found

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        assert isinstance(name_in_request(b"GET / HTTP/1.1\r\n" + data), (str, Verdict))


class TestQuic:
    def test_keys_of_rfc_9001(self) -> None:
        keys = client_keys(VERSION_1, RFC_ID)
        assert [part.hex() for part in keys] == [
            "1f369613dd76d5467730efcbe3b1a22d",
            "fa044b2f42a3fd3b46fb255c",
            "9f50449e04a0e810283a1e9933adedd2",
        ]

    def test_keys_of_rfc_9369(self) -> None:
        keys = client_keys(VERSION_2, RFC_ID)
        assert [part.hex() for part in keys] == [
            "8b1a0bc121284290a29e0971b5cd045d",
            "91f73e2351d8fa91660e909f",
            "45b95e15235d6f45a6b19cbcb0294ba9",
        ]

    @pytest.mark.parametrize(
        ("version", "begin", "end"),
        [
            (
                VERSION_1,
                "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
                "e221af44860018ab0856972e194cd934",
            ),
            (
                VERSION_2,
                "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
                "a18b2faa745b6fe189cf772a9f84cbfc",
            ),
        ],
        ids=["RFC 9001, A.2", "RFC 9369, A.2"],
    )
    def test_the_clients_packet_of_the_rfc(self, version: int, begin: str, end: str) -> None:
        datagram = initial(RFC_FRAMES, version=version)
        assert len(datagram) == 1200
        assert datagram[:32].hex() == begin
        assert datagram[-16:].hex() == end
        (packet,) = find_initials(datagram)
        assert decrypt(datagram, packet, client_keys(version, RFC_ID)) == RFC_FRAMES
        assert QuicHello().add(datagram) == "example.com"

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1, 600), max_size=8), st.randoms(use_true_random=False), st.integers(1, 3))
    def test_a_hello_in_parts_in_any_order(
        self, sizes: list[int], order: random.Random, together: int
    ) -> None:
        whole = hello(b"video.example.com", 700)
        edges = sorted({0, len(whole), *(min(sum(sizes[:n]), len(whole)) for n in range(len(sizes)))})
        parts = [crypto(x, whole[x:y]) for x, y in pairwise(edges)]
        parts += [crypto(0, whole[:30])]  # sent again
        order.shuffle(parts)
        flow, found = QuicHello(), set()
        for number, at in enumerate(range(0, len(parts), together)):
            frames = b"\x01" + b"\0\0".join(parts[at : at + together])
            found.add(flow.add(initial(frames.ljust(1162, b"\0"), number=number)))
        assert found - {MORE} == {"video.example.com"}

    def test_keys_of_a_retry(self) -> None:
        flow = QuicHello()
        whole = hello(b"example.com", 100)
        assert flow.add(initial(crypto(0, whole[:50]))) is MORE
        assert flow.add(initial(crypto(50, whole[50:]), b"\x09" * 12, token=b"t" * 70)) == "example.com"

    def test_a_later_packet_to_the_id_that_the_server_chose(self) -> None:
        flow = QuicHello()
        whole = hello(b"example.com", 100)
        assert flow.add(initial(crypto(0, whole[:50]))) is MORE
        later = initial(b"\x02\x01\0\0\0" + crypto(50, whole[50:]), b"\x0a" * 8, key_id=RFC_ID)
        assert flow.add(later) == "example.com"

    def test_other_keys_and_other_versions(self) -> None:
        assert QuicHello().add(initial(RFC_FRAMES, key_id=b"another")) is MORE
        assert QuicHello().add(b"\xc3\0\0\0\x05" + initial(RFC_FRAMES)[5:]) is MORE

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=120), st.integers(0, 60), st.booleans())
    def test_any_bytes(self, data: bytes, keep: int, inside: bool) -> None:
        """Outside the encryption, and inside it: anybody can make the keys."""
        crypto_parts(data)
        find_initials(data)
        datagram = initial(data.ljust(4, b"\0")) if inside else initial(RFC_FRAMES)[:keep] + data
        assert isinstance(QuicHello().add(datagram), (str, Verdict))
