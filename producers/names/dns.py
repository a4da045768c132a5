"""DNS answers (RFC 1035, 3596): which addresses a client was told for the name it asked for."""

from __future__ import annotations

import struct
from typing import NamedTuple

from producers.names.text import host_name

_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_A, _CNAME, _AAAA, _INTERNET = 1, 5, 28, 1
_MAX_RECORDS = 128
_MAX_LABELS = 128
_MAX_CHAIN = 16


class DnsAnswer(NamedTuple):
    """An answer: the name in the question, and every address that its chain of aliases leads to."""

    name: str
    addresses: tuple[bytes, ...]
    """Of 4 or 16 bytes each, without repeats."""
    ttl_s: int
    """The least along the chain: how long the whole of it holds."""


def parse_answer(message: bytes) -> DnsAnswer | None:
    """Return what a DNS message answers; None for questions, errors, answers without addresses and broken bytes."""
    try:
        return _parse(message)
    except (struct.error, IndexError):
        return None


def _parse(message: bytes) -> DnsAnswer | None:
    _, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    # A response (QR) to a plain query (opcode 0) without an error; one question, as everybody asks.
    if not flags & 0x8000 or flags & 0x780F or questions != 1 or not answers:
        return None
    asked, at = _read_name(message, _HEADER.size)
    if asked is None:
        return None
    at += 4
    aliases: dict[bytes, tuple[bytes, int]] = {}
    addresses: dict[bytes, list[tuple[bytes, int]]] = {}
    try:
        for _ in range(min(answers, _MAX_RECORDS)):
            at = _read_record(message, at, aliases, addresses)
    except (struct.error, IndexError):
        pass  # cut short by the capture or by the server: what is whole counts
    return _follow(asked, aliases, addresses)


def _read_record(
    message: bytes,
    at: int,
    aliases: dict[bytes, tuple[bytes, int]],
    addresses: dict[bytes, list[tuple[bytes, int]]],
) -> int:
    """Take the record at ``at`` in, by its owner, and return the index after it."""
    owner, at = _read_name(message, at)
    kind, network, ttl_s, octets = _FIXED.unpack_from(message, at)
    at += _FIXED.size
    data = message[at : at + octets]
    if len(data) < octets:
        raise IndexError("the record ends early")
    if owner is not None and network == _INTERNET:
        if kind == _CNAME:
            target, _ = _read_name(message, at)
            if target is not None:
                aliases[owner] = target, ttl_s
        elif (kind == _A and octets == 4) or (kind == _AAAA and octets == 16):
            addresses.setdefault(owner, []).append((data, ttl_s))
    return at + octets


def _follow(
    asked: bytes, aliases: dict[bytes, tuple[bytes, int]], addresses: dict[bytes, list[tuple[bytes, int]]]
) -> DnsAnswer | None:
    """Return the addresses at the end of the chain of aliases that begins with the name asked for."""
    name = host_name(asked)
    least_s, owner = 0x7FFFFFFF, asked
    for _ in range(_MAX_CHAIN):
        if owner in addresses or owner not in aliases:
            break
        owner, ttl_s = aliases[owner]
        least_s = min(least_s, ttl_s)
    found = addresses.get(owner)
    if not found or name is None:
        return None
    return DnsAnswer(
        name, tuple(dict.fromkeys(a for a, _ in found)), min(least_s, *(ttl for _, ttl in found))
    )


def _read_name(message: bytes, at: int) -> tuple[bytes | None, int]:
    """Return (name in lower case, index after it); None for a name that is no text or goes in circles.

    Pointers may only lead backwards, so that no name is without end.
    """
    labels: list[bytes] = []
    after, lowest, octets = -1, at, 0
    for _ in range(_MAX_LABELS):
        length = message[at]
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | message[at + 1]
            after = at + 2 if after < 0 else after
            if target >= lowest:
                return None, after
            at = lowest = target
        elif length & 0xC0:
            raise IndexError("a label of an unknown kind: where the name ends is unknown")
        elif length == 0:
            return b".".join(labels).lower(), at + 1 if after < 0 else after
        else:
            octets += length + 1
            if octets > 254:
                raise IndexError("a name of more than 255 octets")
            labels.append(message[at + 1 : at + 1 + length])
            at += 1 + length
    raise IndexError("a name of too many labels")
