"""A partition's flow state as bytes, and back: what one worker leaves for the next."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from schemas.errors import CodecError
from streams.partition import Partition, ProbeState
from streams.paths import SAVED, PathState
from streams.plan import Plan
from streams.probe_flows import ProbeFlows
from streams.services.named import FlowNames

LEVEL = -5
"""Of zstd: two thirds of the time that level 1 takes, for a third more bytes. Packets wait meanwhile."""
MAX_BYTES = 8 << 30
_LENGTH = struct.Struct("<I")


def compressed(pieces: Sequence[bytes | memoryview]) -> bytes:
    """Return the pieces one behind the other, compressed, with a checksum.

    One copy of everything would cost a third of what compressing it does.
    """
    stream = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj(sum(map(len, pieces)))
    return b"".join([*(stream.compress(piece) for piece in pieces), stream.flush()])


def decompressed(data: bytes) -> bytes:
    """Return what ``compressed`` was given.

    Raises:
        ValueError: damaged, or larger than MAX_BYTES.
    """
    try:
        claimed = zstandard.frame_content_size(data)
        if not 0 <= claimed <= MAX_BYTES:  # ``decompress`` would believe it
            raise ValueError(f"it claims a size of {claimed} bytes")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


class Copy:
    """A partition's state at a moment: for each probe its clock, sequence numbers and open flows.

    Good until the next one of the partition is made: its rows lie where those of the last one did.
    """

    def __init__(self, partition: Partition) -> None:
        self._pieces = _pieces(partition)

    def compressed(self) -> bytes:
        """Return the state for ``load``; in any thread, and others may go on meanwhile."""
        return compressed(self._pieces)


def save(partition: Partition) -> bytes:
    """Return a partition's state for ``load``."""
    return Copy(partition).compressed()


def _pieces(partition: Partition) -> list[bytes | memoryview]:
    head: list[dict[str, Any]] = []
    bodies: list[NDArray[Any]] = []
    for name, probe in partition.probes.items():
        rows = probe.flows.save()
        bodies.append(rows)
        head.append(
            {
                "probe": name,
                "rows": len(rows),
                "watermark_ns": probe.flows.watermark_ns,
                "sequences": list(probe.sequences.items()),
                "replayed": probe.replayed,
                "ended": probe.ended,
                "counters": probe.flows.counters.tolist(),
                "clock_steps": probe.flows.clock_steps,
                "names": probe.flows.names.texts,
                "usage": probe.flows.usage.tolist(),
            }
        )
    shape = {"layout": partition.plan.layout, "probes": head, "counters": partition.counters}
    if partition.paths is not None:
        paths = partition.paths.save()
        bodies.append(paths.rows)
        shape["paths"] = {"probes": paths.probes, "rows": len(paths.rows)}
    text = json.dumps(shape).encode()
    return [_LENGTH.pack(len(text)), text, *(rows.view(np.uint8).data for rows in bodies)]


def load(data: bytes, plan: Plan, number: int, monotonic_ns: int) -> Partition:
    """Return the partition that ``save`` wrote.

    Raises:
        CodecError: damaged, or written with other features or table bounds than the plan's.
    """
    try:
        return _load(data, plan, number, monotonic_ns)
    except (ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
        raise CodecError(f"flow state of partition {number} cannot be read: {error}") from error


def _load(data: bytes, plan: Plan, number: int, monotonic_ns: int) -> Partition:
    raw = decompressed(data)
    (size,) = _LENGTH.unpack_from(raw)
    head = json.loads(raw[_LENGTH.size : _LENGTH.size + size])
    if head["layout"] != plan.layout:
        raise CodecError(f"flow state of partition {number} was made with other features or windows")
    partition = Partition(plan, number)
    partition.counters.update(head["counters"])
    at = _LENGTH.size + size
    for entry in head["probes"]:
        if entry["rows"] > plan.settings.max_flows:
            raise CodecError(
                f"flow state of partition {number} holds {entry['rows']} flows, "
                f"more than streams.max_flows = {plan.settings.max_flows}"
            )
        if entry["rows"] < 0:
            raise ValueError(f"{entry['rows']} flows")
        rows = np.frombuffer(raw, plan.row_dtype, entry["rows"], at)
        at += rows.nbytes
        flows = ProbeFlows(plan, entry["probe"])
        flows.load(rows, entry["watermark_ns"])
        flows.counters[:] = entry["counters"]
        flows.clock_steps = entry["clock_steps"]
        flows.names = FlowNames(flows.book, entry["names"])
        flows.usage[:] = entry["usage"]
        sequences = {int(epoch): int(sequence) for epoch, sequence in entry["sequences"]}
        partition.probes[entry["probe"]] = ProbeState(
            flows, sequences, monotonic_ns, entry["replayed"], entry.get("ended", False)
        )
    if (waiting := head.get("paths")) is not None:
        paths = np.frombuffer(raw, SAVED, waiting["rows"], at)
        at += paths.nbytes
        if partition.paths is not None:
            partition.paths.load(PathState(waiting["probes"], paths))
    if at != len(raw):
        raise ValueError(f"{len(raw) - at} bytes follow its flows")
    return partition
