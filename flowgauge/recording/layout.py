"""Where rows lie: folders by topic, date, probe and service as Hive names them, files named by their offsets."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

from schemas.errors import CodecError

NO_VALUE = "-"
"""Stands where a record has no probe or no service."""
_LONGEST_VALUE = 200
"""Octets of a folder's value; file systems take 255 with the name of the column."""


class Key(NamedTuple):
    """What the rows of one file share; ``columns`` are those beyond the ones that all rows of the topic have."""

    date: str
    probe: str
    service: str
    columns: tuple[str, ...] = ()


def checked(value: str, what: str) -> str:
    """Return a value as one for a folder, NO_VALUE for an empty one; raises CodecError if it is too long."""
    if len(quote(value, safe="")) > _LONGEST_VALUE:
        raise CodecError(f"a {what} of {len(value)} characters: too long for the name of a folder")
    return value or NO_VALUE


def folder_of(topic: str, key: Key) -> PurePosixPath:
    """Return the folder of a key's files, from the recording's own."""
    parts = {"topic": topic, "date": key.date, "probe": key.probe, "service": key.service}
    return PurePosixPath(*(f"{name}={quote(value, safe='')}" for name, value in parts.items()))


def file_name(topic: str, partition: int, first_offset: int, next_offset: int, key: Key) -> str:
    """Return the name of a file: topic, partition, first and last offset; and its columns, where they vary."""
    suffix = ""
    if key.columns:
        digest = hashlib.sha256("\0".join(key.columns).encode(errors="surrogatepass")).hexdigest()
        suffix = f"-{digest[:8]}"
    return f"{topic}-{partition:04}-{first_offset:015}-{next_offset - 1:015}{suffix}.parquet"
