"""The server name in a TLS ClientHello (RFC 8446, RFC 6066), from as much of it as has come."""

from __future__ import annotations

from producers.names.text import Verdict, host_name

HANDSHAKE, CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_MAX_RECORD = (1 << 14) + 256
MAX_HELLO = 1 << 14
"""Longest ClientHello that is read, in octets: those of today have up to 2,000 (with post-quantum keys)."""


class _Short(Exception):
    """The bytes end before what is asked for."""


class _Bytes:
    """Bytes read from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise _Short
        self.at += count
        return part

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")


def name_in_stream(data: bytes) -> str | Verdict:
    """Return the server name from the first bytes that a TLS client sends over TCP.

    The hello may be spread over several records (RFC 8446, 5.1).
    """
    hello = bytearray()
    at = 0
    while at < len(data):
        if data[at] != HANDSHAKE or (at + 1 < len(data) and data[at + 1] != 3):
            return Verdict.NOTHING
        if at + 5 > len(data):
            break
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < length <= _MAX_RECORD:
            return Verdict.NOTHING
        hello += data[at + 5 : at + 5 + length]
        at += 5 + length
        if at > len(data):
            break
    return name_in_hello(bytes(hello))


def name_in_hello(hello: bytes) -> str | Verdict:
    """Return the server name from the first bytes of a handshake message (type, length, body)."""
    try:
        return _name(_Bytes(hello))
    except _Short:
        return Verdict.MORE if len(hello) < MAX_HELLO and _may_go_on(hello) else Verdict.NOTHING


def _may_go_on(hello: bytes) -> bool:
    """Return whether the message, by its own length, is not all here yet."""
    return len(hello) < 4 or len(hello) < 4 + int.from_bytes(hello[1:4], "big")


def _name(message: _Bytes) -> str | Verdict:
    if message.number(1) != CLIENT_HELLO or message.number(3) > MAX_HELLO:
        return Verdict.NOTHING
    message.take(2 + 32)  # version, random
    message.take(message.number(1))  # session id
    message.take(message.number(2))  # cipher suites
    message.take(message.number(1))  # compression methods
    left = message.number(2)
    while left >= 4:
        kind, length = message.number(2), message.number(2)
        left -= 4 + length
        if kind == _SERVER_NAME:
            return _first_name(_Bytes(message.take(length)))
        message.take(length)
    return Verdict.NOTHING


def _first_name(extension: _Bytes) -> str | Verdict:
    try:
        left = extension.number(2)
        while left >= 3:
            kind, length = extension.number(1), extension.number(2)
            raw = extension.take(length)
            if kind == _HOST_NAME:
                return host_name(raw) or Verdict.NOTHING
            left -= 3 + length
    except _Short:
        pass
    return Verdict.NOTHING
