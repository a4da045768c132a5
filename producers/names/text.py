"""Names as text: lower case, without the final dot, of the characters that host names have."""

from __future__ import annotations

import re
from enum import Enum

MAX_NAME = 253
_NAME = re.compile(rb"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){0,126}")
_ALL_DIGITS = re.compile(rb"[0-9.]+")


class Verdict(Enum):
    """What a parser says where it has no name to give."""

    MORE = "more bytes may tell a name"
    NOTHING = "no name is to come"


def host_name(raw: bytes) -> str | None:
    """Return bytes off the wire as a host name, or None where they are none (an address is none).

    Whoever sends packets chooses these bytes: what a host name cannot hold never reaches a record.
    """
    name = raw.lower().removesuffix(b".")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or _ALL_DIGITS.fullmatch(name):
        return None
    return name.decode("ascii")
