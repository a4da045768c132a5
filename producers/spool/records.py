"""Records of a segment file: each tells its length and its checksum, so that a reader knows what is whole.

A segment begins with its version and number. A record's checksum (CRC-32) covers its place too: what once stood
elsewhere on the disk is no record here.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple
from zlib import crc32

VERSION = 1
MAX_RECORD = 4 << 20
"""Most bytes of a record's body: more is no length that was ever written."""
_MAGIC = b"FGSPOOL\0"
_SEGMENT = struct.Struct("<8sHHQI")
_HEAD = struct.Struct("<II")
_META = struct.Struct("<qIiHH")
_PLACE = struct.Struct("<QQI")
_NO_KEY = 0xFFFF
HEADER_BYTES = _SEGMENT.size


class Record(NamedTuple):
    """A message as it waits on disk."""

    topic: str
    value: bytes
    partition: int | None
    key: str | None
    items: int
    """Packets in it."""
    time_ns: int
    """Wall clock when it was written."""


class NotWhole(Exception):
    """Bytes that are no whole record."""

    def __init__(self, reason: str, *, is_cut: bool) -> None:
        super().__init__(reason)
        self.is_cut = is_cut
        """Whether the file ends inside the record, as after a crash."""


class OtherVersion(Exception):
    """A segment of another version of the format."""

    def __init__(self, version: int) -> None:
        super().__init__(f"is of version {version}, this program writes and reads version {VERSION}")


def segment_header(number: int) -> bytes:
    """Return what a segment file begins with."""
    head = _SEGMENT.pack(_MAGIC, VERSION, 0, number, 0)[:-4]
    return head + struct.pack("<I", crc32(head))


def check_header(head: bytes, number: int) -> None:
    """Check what a segment file begins with.

    Raises:
        NotWhole: it is none, or of another number.
        OtherVersion: it is of another version.
    """
    if len(head) < HEADER_BYTES:
        raise NotWhole("ends inside its header", is_cut=True)
    magic, version, _, found, checksum = _SEGMENT.unpack(head[:HEADER_BYTES])
    if magic != _MAGIC or checksum != crc32(head[: HEADER_BYTES - 4]):
        raise NotWhole("is no segment of a spool", is_cut=not any(head))
    if version != VERSION:
        raise OtherVersion(version)
    if found != number:
        raise NotWhole(f"is segment {found}", is_cut=False)


def encode_record(record: Record, number: int, offset: int) -> bytes:
    """Return a record as it stands in segment ``number`` at ``offset``."""
    topic, key = record.topic.encode(), None if record.key is None else record.key.encode()
    meta = _META.pack(
        record.time_ns,
        record.items,
        -1 if record.partition is None else record.partition,
        len(topic),
        _NO_KEY if key is None else len(key),
    )
    body = b"".join((meta, topic, key or b"", record.value))
    return _HEAD.pack(len(body), _checksum(body, number, offset)) + body


def _checksum(body: bytes, number: int, offset: int) -> int:
    return crc32(body, crc32(_PLACE.pack(number, offset, len(body))))


def read_record(file: BinaryIO, number: int, offset: int) -> tuple[Record, int] | None:
    """Return the record at ``offset``, where the file stands, and the offset behind it; None at the file's end.

    Raises:
        NotWhole: there is something else.
    """
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise NotWhole("ends inside a record", is_cut=True)
    length, checksum = _HEAD.unpack(head)
    if not _META.size <= length <= MAX_RECORD:
        # Zeros up to the end are what a power cut leaves of a file that had grown, but not been synced.
        is_zero = not any(head) and not any(file.read(MAX_RECORD))
        raise NotWhole("holds a length that no record has", is_cut=is_zero)
    body = file.read(length)
    if len(body) < length:
        raise NotWhole("ends inside a record", is_cut=True)
    if checksum != _checksum(body, number, offset):
        raise NotWhole("holds a record with a wrong checksum", is_cut=False)
    return _decoded(body), offset + _HEAD.size + length


def _decoded(body: bytes) -> Record:
    time_ns, items, partition, topic_bytes, key_bytes = _META.unpack_from(body)
    at = _META.size
    topic = body[at : at + topic_bytes].decode()
    at += topic_bytes
    key = None
    if key_bytes != _NO_KEY:
        key = body[at : at + key_bytes].decode()
        at += key_bytes
    return Record(topic, body[at:], None if partition < 0 else partition, key, items, time_ns)
