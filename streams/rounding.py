"""Statistics told to 10 bits: what is beyond says nothing about a flow, and does not compress on the bus."""

from __future__ import annotations

from schemas.compiled import compiled

_SPLIT = float((1 << 43) + 1)


@compiled
def rounded(value: float) -> float:
    """Return the nearest number of 10 significant bits: within 0.1 % of the value (Dekker's splitting)."""
    scaled = value * _SPLIT
    return scaled - (scaled - value)
