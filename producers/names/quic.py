"""The server name in QUIC Initial packets, versions 1 (RFC 9000, 9001) and 2 (RFC 9369).

Initial packets are encrypted with keys made of the client's first destination connection id, so that
whoever sees the packet can read it. The ClientHello lies in CRYPTO frames, in any order, over several packets.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from producers.names.text import Verdict
from producers.names.tls import MAX_HELLO, name_in_hello

VERSION_1, VERSION_2 = 0x00000001, 0x6B3343CF
MAX_CONNECTION_ID = 20
TAG, SAMPLE = 16, 16
MAX_PARTS = 64
_MAX_KEYS = 4
PADDING, PING, ACK, ACK_ECN, CRYPTO = 0, 1, 2, 3, 6


class _Version(NamedTuple):
    salt: bytes
    label: bytes
    """What the labels of keys begin with."""
    initial: int
    """Value of the two bits that tell the type of a long header packet."""


VERSIONS = {
    VERSION_1: _Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic", 0),
    VERSION_2: _Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2", 1),
}


class InitialKeys(NamedTuple):
    """What protects a client's Initial packets."""

    key: bytes
    iv: bytes
    header: bytes


class Initial(NamedTuple):
    """Where an Initial packet lies in a datagram, and what its header tells."""

    version: int
    connection_id: bytes
    """Of its receiver."""
    begin: int
    number_at: int
    """Index of the packet number, which header protection hides."""
    end: int


def expand_message(label: bytes, octets: int) -> bytes:
    """Return what HKDF-Expand-Label of RFC 8446 hashes for a result of at most one hash."""
    full = b"tls13 " + label
    return octets.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0\1"


def _expand(secret: bytes, label: bytes, octets: int) -> bytes:
    return hmac.digest(secret, expand_message(label, octets), "sha256")[:octets]


def client_keys(version: int, connection_id: bytes) -> InitialKeys:
    """Return the client's keys for the destination connection id of its first packet (RFC 9001, 5.2)."""
    salt, label, _ = VERSIONS[version]
    secret = _expand(hmac.digest(salt, connection_id, "sha256"), b"client in", 32)
    return InitialKeys(
        _expand(secret, label + b" key", 16),
        _expand(secret, label + b" iv", 12),
        _expand(secret, label + b" hp", 16),
    )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, index after it) of a variable-length integer; raises IndexError."""
    length = 1 << (data[at] >> 6)
    if at + length > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + length], "big") & ((1 << (8 * length - 2)) - 1), at + length


def find_initials(datagram: bytes) -> list[Initial]:
    """Return the Initial packets of a datagram, which may hold several and others behind them."""
    found: list[Initial] = []
    at = 0
    try:
        while at < len(datagram) and datagram[at] & 0xC0 == 0xC0:
            first, begin = datagram[at], at
            version = int.from_bytes(datagram[at + 1 : at + 5], "big")
            if version not in VERSIONS:
                break
            kind = (first >> 4 & 3) - VERSIONS[version].initial & 3
            if kind == 3:  # Retry: has no length, and nothing follows it
                break
            at += 5
            size = datagram[at]
            connection_id = datagram[at + 1 : at + 1 + size]
            at += 1 + size
            at += 1 + datagram[at]
            if size > MAX_CONNECTION_ID:
                break
            if kind == 0:
                token, at = _varint(datagram, at)
                at += token
            length, at = _varint(datagram, at)
            if kind == 0 and at + length <= len(datagram):
                found.append(Initial(version, connection_id, begin, at, at + length))
            at += length
    except IndexError:
        pass
    return found


def decrypt(datagram: bytes, packet: Initial, keys: InitialKeys) -> bytes | None:
    """Return the frames of an Initial packet, or None where the keys are not its keys."""
    at = packet.number_at
    sample = datagram[at + 4 : at + 4 + SAMPLE]
    if len(sample) < SAMPLE or packet.end - at < 4 + TAG:
        return None
    # One block of the cipher, as RFC 9001 (5.4.3) has it.
    mask = Cipher(algorithms.AES(keys.header), modes.ECB()).encryptor().update(sample)  # noqa: S305
    first = datagram[packet.begin] ^ (mask[0] & 0x0F)
    size = (first & 3) + 1
    hidden = bytes(a ^ b for a, b in zip(datagram[at : at + size], mask[1:], strict=False))
    head = bytes((first,)) + datagram[packet.begin + 1 : at] + hidden
    number = int.from_bytes(hidden, "big")
    nonce = (int.from_bytes(keys.iv, "big") ^ number).to_bytes(12, "big")
    try:
        return AESGCM(keys.key).decrypt(nonce, datagram[at + size : packet.end], head)
    except InvalidTag:
        return None


def crypto_parts(frames: bytes) -> list[tuple[int, bytes]]:
    """Return (offset, bytes) of the CRYPTO frames of an Initial packet, up to the first frame that is broken."""
    parts: list[tuple[int, bytes]] = []
    at = 0
    try:
        while at < len(frames):
            kind = frames[at]
            at += 1
            if kind == PADDING:
                at = len(frames) - len(frames[at:].lstrip(b"\0"))
            elif kind in (ACK, ACK_ECN):
                at = _skip_ack(frames, at, kind)
            elif kind == CRYPTO:
                offset, at = _varint(frames, at)
                length, at = _varint(frames, at)
                if at + length > len(frames):
                    break
                parts.append((offset, frames[at : at + length]))
                at += length
            elif kind != PING:  # closing, or none that belongs here
                break
    except IndexError:
        pass
    return parts


def _skip_ack(frames: bytes, at: int, kind: int) -> int:
    _, at = _varint(frames, at)
    _, at = _varint(frames, at)
    ranges, at = _varint(frames, at)
    for _ in range(min(2 * ranges + 1, len(frames)) + (3 if kind == ACK_ECN else 0)):
        _, at = _varint(frames, at)
    return at


class QuicHello:
    """The ClientHello of one flow, put together from its client's Initial packets; bounded in size."""

    def __init__(self) -> None:
        self._keys: list[InitialKeys] = []
        self._parts: dict[int, bytes] = {}

    def add(self, datagram: bytes) -> str | Verdict:
        """Take a datagram of the client in; return the server name once it is known."""
        for packet in find_initials(datagram):
            frames = self._decrypt(datagram, packet)
            if frames is None:
                continue
            for offset, part in crypto_parts(frames):
                if offset + len(part) <= MAX_HELLO and len(part) > len(self._parts.get(offset, b"")):
                    self._parts[offset] = part
        if len(self._parts) > MAX_PARTS:
            return Verdict.NOTHING
        hello = self._together()
        return name_in_hello(hello) if hello else Verdict.MORE

    def _decrypt(self, datagram: bytes, packet: Initial) -> bytes | None:
        """Try the keys known for the flow, then those of this packet: the first one's, or after a Retry."""
        for keys in self._keys:
            frames = decrypt(datagram, packet, keys)
            if frames is not None:
                return frames
        if len(self._keys) == _MAX_KEYS:
            return None
        keys = client_keys(packet.version, packet.connection_id)
        frames = decrypt(datagram, packet, keys)
        if frames is not None:
            self._keys.append(keys)
        return frames

    def _together(self) -> bytes:
        """Return the bytes from offset 0 up to the first gap."""
        hello = b""
        for offset, part in sorted(self._parts.items()):
            if offset > len(hello):
                break
            hello += part[len(hello) - offset :]
        return hello
