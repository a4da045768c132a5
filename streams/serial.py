"""Arithmetic of TCP's sequence numbers, which wrap at 2^32 (RFC 9293, section 3.4; RFC 1982)."""

from __future__ import annotations

from schemas.compiled import compiled


@compiled
def ahead(later: int, earlier: int) -> int:
    """Return by how much one sequence number is ahead of another: -2^31 to 2^31 - 1."""
    return ((later - earlier + 0x80000000) & 0xFFFFFFFF) - 0x80000000
