"""The flows of a partition that wait, as bytes: what the next worker goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.flow.table import HELD, Places, Rows
from schemas.errors import CodecError
from streams.checkpoint import compressed, decompressed

LAYOUT = hashlib.sha256(repr((HELD.descr, 2)).encode()).hexdigest()[:16]
"""Digest of what a state's bytes depend on."""
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Waiting:
    """Flows of a partition that wait, with what gives their numbers a meaning."""

    title: str
    """``NAME/VERSION`` of the cascade that has answered them so far."""
    classes: tuple[str, ...]
    probes: tuple[str, ...]
    representations: tuple[str, ...]
    offsets: Mapping[str, int]
    """By plain topic, of the first message that is not in the state."""
    rows: Rows
    """(flows,) HELD."""
    deadlines_ns: Places
    """(flows,) event time until which each waits."""


def save(waiting: Waiting) -> bytes:
    """Return the bytes of a state."""
    head = {
        "title": waiting.title,
        "classes": waiting.classes,
        "probes": waiting.probes,
        "representations": waiting.representations,
        "offsets": dict(waiting.offsets),
        "flows": len(waiting.rows),
    }
    text = json.dumps(head).encode()
    parts = (len(text).to_bytes(_LENGTH_BYTES, "little"), text, waiting.rows.tobytes())
    return compressed((*parts, waiting.deadlines_ns.astype("<i8").tobytes()))


def load(data: bytes) -> Waiting:
    """Read a state of this ``LAYOUT``.

    Raises:
        CodecError: it is none.
    """
    try:
        data = decompressed(data)
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        begin = _LENGTH_BYTES + length
        head = json.loads(data[_LENGTH_BYTES:begin])
        flows = int(head["flows"])
        if len(data) != begin + flows * (HELD.itemsize + 8):
            raise CodecError(f"a state of {flows} flows that wait in {len(data)} bytes")
        rows = np.frombuffer(data, HELD, flows, begin).copy()
        waiting = Waiting(
            str(head["title"]),
            tuple(map(str, head["classes"])),
            tuple(map(str, head["probes"])),
            tuple(map(str, head["representations"])),
            {str(topic): int(offset) for topic, offset in head["offsets"].items()},
            rows,
            np.frombuffer(data, "<i8", flows, begin + flows * HELD.itemsize).astype(np.int64),
        )
    except CodecError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodecError(f"not a state of flows that wait: {type(error).__name__}: {error}") from None
    if flows and (
        rows["probe"].max() >= len(waiting.probes)
        or rows["representation"].max() >= len(waiting.representations)
        or rows["class"].max() >= len(waiting.classes)
    ):
        raise CodecError("a state of flows that wait names what it does not have")
    return waiting
