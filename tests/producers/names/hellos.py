"""ClientHellos, QUIC Initial packets and DNS messages built by hand."""

from __future__ import annotations

import ipaddress
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from producers.names.quic import VERSION_1, client_keys

# What the client of RFC 9001 (A.2) and RFC 9369 (A.2) sends: one CRYPTO frame, then padding.
RFC_FRAMES = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c0000041301130201"
    "0000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c70"
    "6e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74"
    "d748002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffff"
    "ffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
).ljust(1162, b"\0")
RFC_ID = bytes.fromhex("8394c8f03e515708")


def hello(name: bytes | None, padding: int = 0) -> bytes:
    """Return a ClientHello as a handshake message; ``padding`` octets of another extension go first."""
    extensions = struct.pack(">HH", 21, padding) + bytes(padding) if padding else b""
    if name is not None:
        entry = b"\0" + struct.pack(">H", len(name)) + name
        extensions += struct.pack(">HHH", 0, len(entry) + 2, len(entry)) + entry
    body = b"\x03\x03" + bytes(32) + b"\x20" + bytes(32) + b"\0\x04\x13\x01\x13\x02" + b"\x01\0"
    body += struct.pack(">H", len(extensions)) + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def records(handshake: bytes, sizes: tuple[int, ...] = ()) -> bytes:
    """Return a handshake message in TLS records of those sizes, and one for the rest."""
    out, at = b"", 0
    for size in (*sizes, len(handshake)):
        part = handshake[at : at + size]
        if part:
            out += b"\x16\x03\x01" + struct.pack(">H", len(part)) + part
        at += size
    return out


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def varint(value: int) -> bytes:
    return struct.pack(">H", 0x4000 | value) if value >= 64 else bytes((value,))


def initial(
    frames: bytes, connection_id: bytes = RFC_ID, version: int = VERSION_1, number: int = 2, token: bytes = b"",
    key_id: bytes | None = None,
) -> bytes:  # fmt: skip
    """Return a protected client Initial packet (RFC 9001, 5.3 and 5.4), its number in four bytes."""
    keys = client_keys(version, connection_id if key_id is None else key_id)
    first = 0xC3 if version == VERSION_1 else 0xD3
    head = bytes((first,)) + version.to_bytes(4, "big") + bytes((len(connection_id),)) + connection_id + b"\0"
    head += varint(len(token)) + token + struct.pack(">H", 0x4000 | (4 + len(frames) + 16))
    packet_number = number.to_bytes(4, "big")
    nonce = (int.from_bytes(keys.iv, "big") ^ number).to_bytes(12, "big")
    body = AESGCM(keys.key).encrypt(nonce, frames, head + packet_number)
    mask = Cipher(algorithms.AES(keys.header), modes.ECB()).encryptor().update(body[:16])
    hidden = bytes(a ^ b for a, b in zip(packet_number, mask[1:5], strict=True))
    return bytes((head[0] ^ (mask[0] & 0x0F),)) + head[1:] + hidden + body


def label(name: str) -> bytes:
    return b"".join(bytes((len(part),)) + part.encode() for part in name.split(".")) + b"\0"


def record(owner: bytes, kind: int, data: bytes, ttl: int = 300) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def a(owner: bytes, address: str, ttl: int = 300) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return record(owner, 1 if len(packed) == 4 else 28, packed, ttl)


def dns(question: str, *answers: bytes, flags: int = 0x8180, kind: int = 1) -> bytes:
    """Return a DNS response; ``b"\\xc0\\x0c"`` in an answer points to the question's name."""
    return (
        struct.pack(">HHHHHH", 7, flags, 1, len(answers), 0, 0)
        + label(question)
        + struct.pack(">HH", kind, 1)
        + b"".join(answers)
    )
