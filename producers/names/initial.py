"""The server name in one QUIC Initial packet that holds a whole ClientHello, as compiled code finds it.

A hello that is spread over several packets, and what came after a Retry, is for ``producers.names.quic``, which
also says where all of this is written down. The tag of the packet is not looked at here: a whole ClientHello comes
out with the right keys only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big
from producers.names.aes import ROUND_WORDS, encrypt, expand_key
from producers.names.quic import (
    ACK,
    ACK_ECN,
    CRYPTO,
    MAX_CONNECTION_ID,
    MAX_PARTS,
    PADDING,
    PING,
    SAMPLE,
    TAG,
    VERSION_1,
    VERSION_2,
    VERSIONS,
    expand_message,
)
from producers.names.sha256 import DIGEST, hmac_sha256
from producers.names.text import MORE, NOTHING
from producers.names.tls import CLIENT_HELLO, HELLO_ROOM, MAX_HELLO, hello_name

NO_USE = -2
"""Result for a datagram that tells nothing, alone or with others: cut by the capture, or not of the client."""
MAX_DATAGRAM = 2048
"""Longer ones, as network cards put them together, are not for compiled code."""
_CLIENT, _KEY, _IV, _HEADER = 0, 1, 2, 3
_GCM_FIRST = 2
"""Number of the first block of text in AES-GCM."""


def _messages() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """Return what keys are made of: messages (version, secret, octets), their lengths and salts by version."""
    text, lengths = np.zeros((2, 4, 32), np.uint8), np.zeros((2, 4), np.int64)
    salts = np.zeros((2, 20), np.uint8)
    for row, version in enumerate((VERSION_1, VERSION_2)):
        salt, label, _ = VERSIONS[version]
        salts[row] = np.frombuffer(salt, np.uint8)
        wanted = ((b"client in", 32), (label + b" key", 16), (label + b" iv", 12), (label + b" hp", 16))
        for at, (name, octets) in enumerate(wanted):
            message = np.frombuffer(expand_message(name, octets), np.uint8)
            text[row, at, : len(message)], lengths[row, at] = message, len(message)
    return text, lengths, salts


_MESSAGES, _LENGTHS, _SALTS = _messages()


class InitialRoom(NamedTuple):
    """Memory to work in."""

    frames: NDArray[np.uint8]
    parts: NDArray[np.int64]
    """(parts, 3): where CRYPTO frames lie: offset in the hello, length, index in ``frames``"""
    hello: NDArray[np.uint8]


def allocate_initial_room() -> InitialRoom:
    """Return memory to work in."""
    return InitialRoom(
        np.zeros(MAX_DATAGRAM + 16, np.uint8),
        np.zeros((MAX_PARTS, 3), np.int64),
        np.zeros(HELLO_ROOM, np.uint8),
    )


@njit(cache=True, nogil=True)
def _varint(data: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """Return (value, index after it) of a variable-length integer; -1 where it is cut short."""
    if at >= stop:
        return -1, at
    length = 1 << (u8(data, at) >> 6)
    if at + length > stop:
        return -1, at
    value = u8(data, at) & 0x3F
    for i in range(1, length):
        value = (value << 8) | u8(data, at + i)
    return value, at + length


@njit(cache=True, nogil=True)
def _decrypt(
    data: NDArray[np.uint8],
    begin: int,
    number_at: int,
    end: int,
    row: int,
    size: int,
    frames: NDArray[np.uint8],
) -> int:
    """Decrypt the Initial packet ``data[begin:end]`` with the keys of its own connection id; return the octets."""
    secret, key = np.empty(DIGEST, np.uint8), np.empty(DIGEST, np.uint8)
    hmac_sha256(_SALTS[row], data[begin + 6 : begin + 6 + size], size, key)
    hmac_sha256(key, _MESSAGES[row, _CLIENT], _LENGTHS[row, _CLIENT], secret)
    rounds = np.empty(ROUND_WORDS, np.uint32)
    hmac_sha256(secret, _MESSAGES[row, _HEADER], _LENGTHS[row, _HEADER], key)
    expand_key(key, rounds)
    sample = number_at + 4
    mask, masks, _, _ = encrypt(
        rounds,
        np.uint32(u32_big(data, sample)),
        np.uint32(u32_big(data, sample + 4)),
        np.uint32(u32_big(data, sample + 8)),
        np.uint32(u32_big(data, sample + 12)),
    )
    octets = ((u8(data, begin) ^ (mask >> np.uint32(24))) & 3) + 1
    hidden = (np.int64(mask) & 0xFFFFFF) << 8 | np.int64(masks) >> 24
    number = (u32_big(data, number_at) ^ hidden) >> (8 * (4 - octets))
    hmac_sha256(secret, _MESSAGES[row, _IV], _LENGTHS[row, _IV], key)
    iv0, iv1 = np.uint32(u32_big(key, 0)), np.uint32(u32_big(key, 4))
    iv2 = np.uint32(u32_big(key, 8) ^ number)
    hmac_sha256(secret, _MESSAGES[row, _KEY], _LENGTHS[row, _KEY], key)
    expand_key(key, rounds)
    start = number_at + octets
    length = end - TAG - start
    for at in range(0, length, 16):
        words = encrypt(rounds, iv0, iv1, iv2, np.uint32(_GCM_FIRST + at // 16))
        for i in range(min(16, length - at)):
            shift = np.uint32(24 - 8 * (i & 3))
            frames[at + i] = data[start + at + i] ^ ((words[i >> 2] >> shift) & np.uint32(0xFF))
    return int(length)


@njit(cache=True, nogil=True)
def _find_parts(frames: NDArray[np.uint8], octets: int, parts: NDArray[np.int64]) -> tuple[int, bool]:
    """Write where CRYPTO frames lie; return (how many, whether all frames are such as belong there)."""
    at, count = 0, 0
    while at < octets:
        kind = u8(frames, at)
        at += 1
        if kind == PADDING or kind == PING:  # noqa: SIM109
            continue
        if kind == CRYPTO:
            offset, at = _varint(frames, at, octets)
            length, at = _varint(frames, at, octets)
            if offset < 0 or length < 0 or at + length > octets or count == len(parts):
                return count, False
            parts[count, 0], parts[count, 1], parts[count, 2] = offset, length, at
            count += 1
            at += length
        elif kind == ACK or kind == ACK_ECN:  # noqa: SIM109
            _, at = _varint(frames, at, octets)
            _, at = _varint(frames, at, octets)
            ranges, at = _varint(frames, at, octets)
            for _ in range(min(2 * ranges + 1, octets) + (3 if kind == ACK_ECN else 0)):
                value, at = _varint(frames, at, octets)
                if value < 0:
                    return count, False
        else:
            return count, False
    return count, True


@njit(cache=True, nogil=True)
def _put_together(room: InitialRoom, count: int) -> int:
    """Copy the hello up to its first gap; return its length. The lower offset counts, then the longer part."""
    parts, filled, last = room.parts, 0, -1
    for _ in range(count):
        best = -1
        for n in range(count):
            offset, length = parts[n, 0], parts[n, 1]
            if offset <= last or offset + length > MAX_HELLO:
                continue
            if best < 0 or offset < parts[best, 0] or (offset == parts[best, 0] and length > parts[best, 1]):
                best = n
        if best < 0 or parts[best, 0] > filled:
            break
        last = parts[best, 0]
        skipped = filled - last
        octets = parts[best, 1] - skipped
        if octets > 0:
            start = parts[best, 2] + skipped
            room.hello[filled : filled + octets] = room.frames[start : start + octets]
            filled += octets
    return filled


@njit(cache=True, nogil=True)
def quic_name(
    data: NDArray[np.uint8], begin: int, stop: int, room: InitialRoom, out: NDArray[np.uint8]
) -> int:
    """Write the server name that the datagram ``data[begin:stop]``, which begins with an Initial packet, tells.

    Returns the length of the name, NOTHING where its hello has none, MORE where it takes more to tell, or NO_USE.
    """
    if stop - begin < 7 or stop - begin > MAX_DATAGRAM:
        return MORE
    version = u32_big(data, begin + 1)
    row = 0 if version == VERSION_1 else 1
    size = u8(data, begin + 5)
    at = begin + 6 + size
    if size > MAX_CONNECTION_ID or at >= stop:
        return NO_USE
    at += 1 + u8(data, at)
    token, at = _varint(data, at, stop)
    if token < 0:
        return NO_USE
    length, number_at = _varint(data, at + token, stop)
    end = number_at + length
    if length < 4 + max(TAG, SAMPLE) or end > stop:
        return NO_USE
    octets = _decrypt(data, begin, number_at, end, row, size, room.frames)
    count, is_clean = _find_parts(room.frames, octets, room.parts)
    if count == 0 and not is_clean:
        # Not its keys; another Initial packet behind it may be readable.
        return MORE if stop - end > 5 and u8(data, end) & 0xF0 == u8(data, begin) & 0xF0 else NO_USE
    filled = _put_together(room, count)
    found = hello_name(room.hello, 0, filled, out)
    if found == NOTHING:
        is_hello = is_clean and filled >= 4 and u8(room.hello, 0) == CLIENT_HELLO
        is_hello = is_hello and filled >= 4 + ((u8(room.hello, 1) << 16) | u16_big(room.hello, 2))
        return NOTHING if is_hello else MORE
    return found
