"""What messages take on the bus and in its storage."""

from __future__ import annotations

import cramjam

COMPRESSION = "lz4"
"""That of feature topics, where the settings name no other."""
LEVEL = 0
"""librdkafka's, where ``compression.level`` is not set."""


def compressed_octets(message: bytes) -> int:
    """Return the octets of a message that is compressed by itself, as an lz4 frame."""
    return len(cramjam.lz4.compress(message, level=LEVEL))
