"""Compiled readers against other implementations of the same, and against bytes made to hurt."""

from __future__ import annotations

import hmac
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.names.aes import ROUND_WORDS, encrypt, expand_key
from producers.names.dns import parse_answer
from producers.names.http import name_in_request
from producers.names.initial import MAX_DATAGRAM, NO_USE, allocate_initial_room, quic_name
from producers.names.quic import VERSION_1, VERSION_2, QuicHello
from producers.names.sha256 import DIGEST, MOST, hmac_sha256
from producers.names.text import MORE, NAME_ROOM, NOTHING, Verdict, host_name, write_host
from producers.names.tls import name_in_stream
from tests.producers.names.hellos import a, crypto, dns, hello, initial, label, record, records


def array(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    return np.frombuffer(data, np.uint8)


def in_one_packet(datagram: bytes) -> str | int:
    out = np.zeros(NAME_ROOM, np.uint8)
    length = quic_name(array(datagram), 0, len(datagram), allocate_initial_room(), out)
    return out[:length].tobytes().decode("ascii") if length > 0 else length


@settings(deadline=None)
@given(key=st.binary(min_size=1, max_size=64), message=st.binary(max_size=MOST))
def test_hmac(key: bytes, message: bytes) -> None:
    out = np.zeros(DIGEST, np.uint8)
    hmac_sha256(array(key), array(message), len(message), out)
    assert out.tobytes() == hmac.digest(key, message, "sha256")


@settings(deadline=None)
@given(key=st.binary(min_size=16, max_size=16), block=st.binary(min_size=16, max_size=16))
def test_aes(key: bytes, block: bytes) -> None:
    rounds = np.zeros(ROUND_WORDS, np.uint32)
    expand_key(array(key), rounds)
    words = encrypt(rounds, *np.frombuffer(block, ">u4").astype(np.uint32))
    expected = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)
    assert np.array(words).astype(">u4").tobytes() == expected


@settings(deadline=None)
@given(st.binary(max_size=70) | st.text("aB0-._", max_size=260).map(str.encode))
def test_host_names(raw: bytes) -> None:
    out = np.zeros(NAME_ROOM, np.uint8)
    length = write_host(array(raw), 0, len(raw), out)
    name = out[:length].tobytes().decode("ascii") if length != NOTHING else None
    assert name == host_name(raw)


@settings(deadline=None, max_examples=60)
@given(
    version=st.sampled_from((VERSION_1, VERSION_2)),
    padding=st.integers(0, 500),
    cuts=st.lists(st.integers(0, 600), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_a_hello_in_one_packet(version: int, padding: int, cuts: list[int], order: object) -> None:
    whole = hello(b"www.example.com", padding)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [crypto(x, whole[x:y]) for x, y in pairwise(edges)]
    order.shuffle(parts)  # type: ignore[attr-defined]
    datagram = initial(b"\x01\0\0".join(parts).ljust(1162, b"\0"), version=version)
    assert in_one_packet(datagram) == "www.example.com" == QuicHello().add(datagram)


def test_what_one_packet_does_not_tell() -> None:
    whole = hello(b"www.example.com", 700)
    assert in_one_packet(initial(crypto(0, whole[:30]).ljust(1162, b"\0"))) == MORE
    assert in_one_packet(initial(crypto(0, hello(None)).ljust(1162, b"\0"))) == NOTHING
    assert in_one_packet(initial(crypto(0, whole).ljust(1162, b"\0"))[:900]) == NO_USE
    assert in_one_packet(b"\xc0\0\0\0\x01" + bytes(MAX_DATAGRAM)) == MORE


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=400), at=st.integers(0, 300), octets=st.binary(max_size=6))
def test_changed_bytes(data: bytes, at: int, octets: bytes) -> None:
    """Whatever comes, compiled code stays inside its arrays and agrees with the slow path."""
    datagram = initial(crypto(0, hello(b"www.example.com", 40)).ljust(1162, b"\0"))
    datagram = datagram[:at] + octets + datagram[at + len(octets) :]
    fast, slow = in_one_packet(datagram), QuicHello().add(datagram)
    if isinstance(slow, str) or (isinstance(fast, str) and at < 1100):
        assert fast in (slow, MORE) or slow is Verdict.MORE
    for frames in (data, data.ljust(1162, b"\x06")):
        assert in_one_packet(initial(frames + bytes(4))) in (MORE, NO_USE, NOTHING)
    for whole in (records(hello(b"www.example.com", 40)), b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"):
        changed = whole[:at] + octets + whole[at + len(octets) :]
        for read in (name_in_stream, name_in_request):
            for text in (changed, data):
                found = read(text)
                assert isinstance(found, Verdict) or host_name(found.encode()) == found


@settings(deadline=None, max_examples=200)
@given(at=st.integers(12, 120), octets=st.binary(max_size=6), data=st.binary(max_size=200))
def test_changed_answers(at: int, octets: bytes, data: bytes) -> None:
    message = dns(
        "www.example.com", record(b"\xc0\x0c", 5, label("x.example")), a(label("x.example"), "192.0.2.1")
    )
    for text in (message[:at] + octets + message[at + len(octets) :], message[:12] + data, data):
        answer = parse_answer(text)
        assert answer is None or (host_name(answer.name.encode()) == answer.name and answer.addresses)
