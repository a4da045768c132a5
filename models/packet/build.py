"""Makes a data set of packets out of captures and labelled flows.

The captures are read twice and never held: first to count what each labelled flow has, then to copy the packets
chosen. What is kept in memory grows with the flows, not with the packets.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from models.packet.choose import Candidate, ClassRules, candidates, choose_classes, counts_of, quotas
from models.packet.dataset import ARRAYS, MANIFEST, SHARES, SPLITS, VERSION
from models.packet.splits import split_groups, split_rows
from producers.columns import PacketColumns
from producers.config import PayloadSettings
from producers.followed import FlowRules
from producers.payloads.sampler import PayloadRows, PayloadSampler
from producers.sources.capture import open_capture
from schemas.errors import InputError
from schemas.flow_key import flow_id_of, mix, probe_hash_of
from schemas.payloads import MASKED_OCTETS

PROBE = "offline"
"""Name of the probe that is a part of the flow ids."""
_PARTS = ("train", "validation", "test")
_THIN = 0.5
"""A part that has less than this of its share is told of."""
_DICE = np.uint64(0xD6E8FEB86659FD93)

OnProgress = Callable[[int, float], None]
"""Told packets read, and the share of the work done."""


@dataclass(frozen=True)
class Source:
    """A capture, and the labels of its flows."""

    path: str
    name: str
    sha256: str
    group: str
    """Captures of one group are not independent: they stay on one side of the capture split."""
    flow_ids: NDArray[np.uint64]
    """Ascending."""
    flow_labels: NDArray[np.int64]
    """Index into the labels."""


@dataclass(frozen=True)
class BuildOptions:
    """What to make."""

    per_class: int = 10_000
    per_flow: int | None = None
    """Most packets of a flow; None: as many as ``per_class`` allows."""
    seed: int = 1
    rules: ClassRules = field(default_factory=ClassRules)
    flow_rules: FlowRules = field(default_factory=FlowRules)
    partitions: int = 8
    about: dict[str, Any] = field(default_factory=dict)
    """More for the manifest: where the labels came from."""


@dataclass
class Built:
    """What was made."""

    manifest: dict[str, Any]
    notes: list[str]
    """What a person should know, one line each."""


class _Flows:
    """Numbers of all labelled flows: those of a source stand together, in the order of their ids."""

    def __init__(self, sources: Sequence[Source]) -> None:
        sizes = [len(source.flow_ids) for source in sources]
        self.first = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self.label = np.concatenate([s.flow_labels for s in sources] or [np.empty(0, np.int64)])
        self.source = np.repeat(np.arange(len(sources)), sizes)


@njit(cache=True, nogil=True)
def _numbers(
    rows: PayloadRows,
    flow_hash: NDArray[np.uint64],
    probe_hash: np.uint64,
    known: NDArray[np.uint64],
    first: int,
) -> NDArray[np.int64]:
    """Return the number of each row's flow, -1 where it has no label."""
    out = np.full(len(rows.row), -1, np.int64)
    if len(known) == 0:
        return out
    for i in range(len(out)):
        flow_id = flow_id_of(flow_hash[rows.row[i]], probe_hash, rows.start_ns[i])
        at = np.searchsorted(known, flow_id)
        if at < len(known) and known[at] == flow_id:
            out[i] = first + at
    return out


@njit(cache=True, nogil=True)
def _draw(
    numbers: NDArray[np.int64],
    left: NDArray[np.int64],
    needed: NDArray[np.int64],
    seed: np.uint64,
) -> NDArray[np.int64]:
    """Return which rows to take: exactly ``needed`` of the ``left`` rows of each flow, each as likely as another.

    Selection sampling (Knuth, TAOCP 3.4.2, S), with dice made of the seed, the flow and the row.
    """
    out = np.empty(len(numbers), np.int64)
    taken = 0
    for i in range(len(numbers)):
        flow = numbers[i]
        if flow < 0 or left[flow] == 0:
            continue
        dice = mix(mix(seed ^ (np.uint64(flow) * _DICE)) ^ np.uint64(left[flow]))
        if np.int64(dice % np.uint64(left[flow])) < needed[flow]:
            needed[flow] -= 1
            out[taken] = i
            taken += 1
        left[flow] -= 1
    return out[:taken]


@njit(cache=True, nogil=True)
def _vectors(
    rows: PayloadRows, taken: NDArray[np.int64], at: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    """Write the rows ``taken`` to the rows ``at`` of a matrix of zeros."""
    for k in range(len(taken)):
        i = taken[k]
        begin = rows.end[i - 1] if i else 0
        length = rows.end[i] - begin
        out[at[k], MASKED_OCTETS : MASKED_OCTETS + length] = rows.data[begin : begin + length]


class _Reading:
    """Reads the sources' packets with payload."""

    def __init__(
        self, sources: Sequence[Source], options: BuildOptions, on_progress: OnProgress | None
    ) -> None:
        self._sources, self._options, self._on_progress = sources, options, on_progress
        self._probe_hash = probe_hash_of(PROBE)
        self._passes = 0
        self.read = 0
        self.counts: Counter[str] = Counter()
        """Of the first pass, as ``producers.payloads.sampler.NAMES`` and those skipped."""

    def blocks(self, flows: _Flows) -> Iterator[tuple[int, PacketColumns, PayloadRows, NDArray[np.int64]]]:
        """Yield (source, packets, payloads, number of each payload's flow) of all captures, block by block."""
        self._passes += 1
        settings = PayloadSettings(mode="sample", one_in=1)
        for number, source in enumerate(self._sources):
            sampler = PayloadSampler(settings, self._options.partitions, self._options.flow_rules)
            first = int(flows.first[number])
            with open_capture(source.path) as capture:
                for block in capture.blocks(tap=sampler):
                    rows = sampler.rows
                    yield (
                        number,
                        block,
                        rows,
                        _numbers(rows, block.flow_hash, self._probe_hash, source.flow_ids, first),
                    )
                    self.read += block.packets
                    self._tell(number, capture.bytes_read / capture.size if capture.size else 0.0)
                if self._passes == 1:
                    self.counts.update(sampler.told())
                    self.counts.update(capture.counters.skipped)

    def _tell(self, number: int, share: float) -> None:
        if self._on_progress is not None:
            done = (self._passes - 1 + (number + share) / len(self._sources)) / 2
            self._on_progress(self.read, done)


def check_folder(folder: Path) -> None:
    """Raise InputError unless a data set may be written there: nothing is, or a data set that it replaces."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise InputError(f"{folder}: holds something else than a data set; give another folder")


def build(
    folder: Path,
    sources: Sequence[Source],
    labels: Sequence[str],
    options: BuildOptions,
    on_progress: OnProgress | None = None,
) -> Built:
    """Write a data set, whole or not at all.

    Args:
        folder: where to; what is there is replaced if it is a data set.
        sources: the captures with their labelled flows.
        labels: what the sources' ``flow_labels`` count.
        options: what to make.
        on_progress: see ``OnProgress``.

    Raises:
        InputError: fewer than two classes, nothing labelled, a capture that cannot be read, or a folder that
            cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        check_folder(folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        built = _build(part, sources, labels, options, on_progress)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return built


def _build(
    folder: Path,
    sources: Sequence[Source],
    labels: Sequence[str],
    options: BuildOptions,
    on_progress: OnProgress | None,
) -> Built:
    flows, reading = _Flows(sources), _Reading(sources, options, on_progress)
    packets = np.zeros(len(flows.label), np.int64)
    for _, _, _, numbers in reading.blocks(flows):
        np.add.at(packets, numbers[numbers >= 0], 1)
    if not packets.any():
        raise InputError("no label fits a flow of the captures, so there is nothing to learn from")
    names = {name: i for i, name in enumerate(sorted({source.group for source in sources}))}
    group = np.array([names[source.group] for source in sources], np.int64)
    found = candidates(
        tuple(labels), flows.label, packets, flows.source, group, options.per_class, options.per_flow
    )
    kept, notes = choose_classes(found, options.rules)

    class_of_label = np.full(len(labels), -1, np.int64)
    class_of_label[[c.label for c in kept]] = np.arange(len(kept))
    flow_class = class_of_label[flows.label]
    needed = np.zeros(len(packets), np.int64)
    for number in range(len(kept)):
        mine = np.flatnonzero(flow_class == number)
        needed[mine] = quotas(packets[mine], options.per_class, options.per_flow)
    arrays = _write(folder, flows, flow_class, packets, needed, options.seed, reading)
    notes += _split(arrays, group, kept, options.seed)
    manifest = {**_manifest(arrays, sources, kept, reading, options), "notes": notes}
    for array in arrays.values():
        array.flush()
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return Built(manifest, notes)


def _array(path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    """Return a new array in a file that has its whole place on the disk.

    Without, a full disk would be found at a write to the map, and end the process by SIGBUS.
    """
    array = open_memmap(path, "w+", np.dtype(dtype), shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _write(
    folder: Path,
    flows: _Flows,
    flow_class: NDArray[np.int64],
    packets: NDArray[np.int64],
    needed: NDArray[np.int64],
    seed: int,
    reading: _Reading,
) -> dict[str, Any]:
    """Read the captures again and write the rows; return the arrays, splits not yet filled in."""
    rows = int(needed.sum())
    arrays: dict[str, Any] = {
        name: _array(folder / f"{name}.npy", dtype, (rows, *shape)) for name, (dtype, shape) in ARRAYS.items()
    }
    of_class = np.bincount(flow_class[needed > 0], weights=needed[needed > 0]).astype(np.int64)
    # The places of a class's rows, shuffled: in the captures' order a batch of a training would be of one flow.
    rng = np.random.default_rng([seed, 0])
    starts = np.concatenate(([0], np.cumsum(of_class)))
    places = np.concatenate(
        [starts[c] + rng.permutation(size) for c, size in enumerate(of_class.tolist())] or [starts]
    )
    used = starts[:-1].copy()
    new_number = np.cumsum(needed > 0) - 1
    left, still = packets.copy(), needed.copy()
    left[needed == 0] = 0
    for number, block, payloads, numbers in reading.blocks(flows):
        taken = _draw(numbers, left, still, np.uint64(seed))
        kinds = flow_class[numbers[taken]]
        at = np.empty(len(taken), np.int64)
        for kind in np.unique(kinds):
            mine = np.flatnonzero(kinds == kind)
            at[mine] = places[used[kind] : used[kind] + len(mine)]
            used[kind] += len(mine)
        _vectors(payloads, taken, at, arrays["vectors"])
        arrays["classes"][at] = kinds
        arrays["flow"][at] = new_number[numbers[taken]]
        arrays["capture"][at] = number
        arrays["packet_number"][at] = payloads.packet_number[taken]
        arrays["handshake"][at] = payloads.handshake[taken] == 1
        del block
    return arrays


def _split(
    arrays: dict[str, Any], source_group: NDArray[np.int64], kept: Sequence[Candidate], seed: int
) -> list[str]:
    """Fill in the splits; return what a person should know about them."""
    classes = np.asarray(arrays["classes"])
    arrays["split_random"][:] = split_rows(classes, seed)
    groups = {"flow": np.asarray(arrays["flow"]), "capture": source_group[np.asarray(arrays["capture"])]}
    for salt, (name, of_row) in enumerate(groups.items(), 2):
        arrays[f"split_{name}"][:] = split_groups(classes, of_row, seed, salt)
    notes = []
    for split in SPLITS:
        parts = np.asarray(arrays[f"split_{split}"])
        for number, candidate in enumerate(kept):
            has = np.bincount(parts[classes == number], minlength=len(SHARES))[: len(SHARES)]
            largest = {"flow": candidate.largest_flow, "capture": candidate.largest_group}.get(split, 0)
            if told := _reached(has.tolist(), split, largest / candidate.taken):
                notes.append(f"class {candidate.name} {told}")
    return notes


def _reached(has: list[int], split: str, largest: float) -> str:
    """Return what is amiss with a class's packets in the parts of a split, empty if nothing is.

    Args:
        has: packets in each part.
        split: its name.
        largest: share of the packets that are of the largest flow or group, none of which may be divided.
    """
    lacks = [name for name, packets in zip(_PARTS, has, strict=True) if not packets]
    if len(lacks) == len(SHARES):
        return f"is unused in the {split} split: all of it is of one {split}"
    if lacks:
        return f"has no packet for {' and '.join(lacks)} in the {split} split"
    for name, packets, share in zip(_PARTS, has, SHARES, strict=True):
        if packets / sum(has) < _THIN * share:
            return (
                f"has {packets} packets for {name} in the {split} split, {packets / sum(has):.1%} and not "
                f"{share:.0%}: {largest:.0%} of it is of one {split}"
            )
    return ""


def _manifest(
    arrays: dict[str, Any],
    sources: Sequence[Source],
    kept: Sequence[Candidate],
    reading: _Reading,
    options: BuildOptions,
) -> dict[str, Any]:
    classes, captures = np.asarray(arrays["classes"]), np.asarray(arrays["capture"])
    counts = {}
    for number, candidate in enumerate(kept):
        mine = classes == number
        counts[candidate.name] = {
            "packets": int(mine.sum()),
            "flows": len(np.unique(np.asarray(arrays["flow"])[mine])),
            "handshake": int(np.asarray(arrays["handshake"])[mine].sum()),
            **counts_of(candidate),
            **{
                f"split_{split}": np.bincount(np.asarray(arrays[f"split_{split}"])[mine], minlength=3)[
                    :3
                ].tolist()
                for split in SPLITS
            },
        }
    rows_of = np.bincount(captures, minlength=len(sources)).tolist()
    return {
        "version": VERSION,
        "rows": len(classes),
        "classes": [candidate.name for candidate in kept],
        "counts": counts,
        "sources": [
            {"name": s.name, "sha256": s.sha256, "group": s.group, "rows": rows_of[i]}
            for i, s in enumerate(sources)
        ],
        "packets": dict(reading.counts),
        "masked_octets": MASKED_OCTETS,
        "shares": list(SHARES),
        "seed": options.seed,
        "per_class": options.per_class,
        "per_flow": options.per_flow,
        "flow_rules": options.flow_rules._asdict(),
        "rules": {
            "names": list(options.rules.names),
            "leave_out": list(options.rules.leave_out),
            "top": options.rules.top,
            "top_by": options.rules.top_by,
            "min_packets": options.rules.min_packets,
            "min_flows": options.rules.min_flows,
            "min_groups": options.rules.min_groups,
            "min_part": options.rules.min_part,
        },
        **options.about,
    }
