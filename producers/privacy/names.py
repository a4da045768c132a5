"""Names of servers as hashes with a key, domain by domain, so that rules by domain still work for who has the key.

``www.example.org`` becomes ``H(www.example.org).H(example.org).H(org)``: names of one domain end alike, and nothing
else of them is told but how many labels they have.
"""

from __future__ import annotations

import hmac
from functools import lru_cache

import numpy as np

from producers.names.told import Told
from producers.privacy.keys import Key

_DIGITS = 16
"""Hexadecimal digits of a hash: 64 bits."""
MOST_LABELS = 8
"""Hashes in a name; the labels before are hashed as one, so that a name stays as short as names are."""
_REMEMBERED = 1 << 14


class NameHasher:
    """Hashes names with one key."""

    def __init__(self, key: Key) -> None:
        self._key = key.derived("flowgauge names")
        self.hashed = lru_cache(_REMEMBERED)(self._hashed)

    def __repr__(self) -> str:
        return "NameHasher(…)"

    def _hashed(self, name: str) -> str:
        """Return the hash of a name, which may be a domain."""
        labels = name.rsplit(".", MOST_LABELS - 1)
        domains = (".".join(labels[at:]) for at in range(len(labels)))
        return ".".join(
            hmac.digest(self._key, domain.encode(), "sha256").hex()[:_DIGITS] for domain in domains
        )

    def told(self, told: Told) -> Told:
        """Return what was told with all names hashed."""
        events = len(told.row)
        names = [self.hashed(name) for name in told.names(0, events)]
        stops = np.cumsum([len(name) for name in names], dtype=np.int64)
        text = np.frombuffer("".join(names).encode("ascii"), np.uint8)
        return told._replace(text=text, name_stop=stops)
