"""Labels for a data set of packets: each capture's flows joined with nDPI or with a file of labels."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from flowgauge.labelling import join, our_flows
from flowgauge.ndpi import NdpiFlow, NdpiReader, join_key
from models.packet.build import PROBE, Source
from producers.labels import LabelTable, read_labels
from schemas.community_id import address_bytes
from schemas.errors import InputError
from streams.config import StreamsSettings

NDPI = "ndpi"
_DISSECTIONS = 20
"""Packets of a flow that nDPI looks at."""
_PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "icmp6": 58, "icmpv6": 58, "sctp": 132}
_BY_CAPTURE = (
    "capture", "proto", "ip_a", "port_a", "ip_b", "port_b", "first_seen", "last_seen", "app",
)  # fmt: skip
_GRADES = ("dpi_grade", "unique")
_HASH_OCTETS = 1 << 20

_address = lru_cache(maxsize=1 << 14)(address_bytes)

LabelsOf = Callable[[str], "Iterator[NdpiFlow]"]


@dataclass
class LabelledSources:
    """The captures with their flows' labels."""

    sources: list[Source] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """As ``flowgauge.labelling.Labelled``, and ``captures_unreadable``."""
    warnings: list[str] = field(default_factory=list)


def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each capture that a table of captures names, by the capture's file name.

    The table is CSV with ``capture`` and ``overlap_group``, ``split_unit`` or both; captures alike in either are
    of one group.

    Raises:
        InputError: it cannot be read or has no such column.
    """
    rows = list(_csv(path, ("capture",)))
    columns = [name for name in ("overlap_group", "split_unit") if rows and name in rows[0]]
    if not columns:
        raise InputError(f"{path}: no column overlap_group or split_unit, which tell groups of captures")
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for row in rows:
        for column in columns:
            if row[column]:
                parent[root(f"{column} {row[column]}")] = root(row["capture"])
    return {row["capture"]: root(row["capture"]) for row in rows}


def _csv(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: line 1: no column {missing[0]}")
            for row in reader:
                yield {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    except csv.Error as error:
        raise InputError(f"{path}: {error}") from None


def label_captures(
    captures: Sequence[str],
    labels: str,
    groups: dict[str, str],
    settings: StreamsSettings,
    partitions: int,
    stop: Callable[[], bool],
    on_capture: Callable[[int], None],
) -> LabelledSources:
    """Return the captures with the labels of their flows; one that cannot be read is left out with a warning.

    Args:
        captures: files.
        labels: ``ndpi``, or a labels file (see ``producers.labels``), or one that names flows by capture.
        groups: captures that are not independent, by file name; any other capture stands for itself.
        settings: when flows end.
        partitions: how many partitions flows are split over.
        stop: True ends it early.
        on_capture: told how many captures are through.

    Raises:
        InputError: the labels cannot be read, or no capture can.
    """
    out, numbers = LabelledSources(), dict[str, int]()
    with _labels_of(captures, labels, settings, stop) as labels_of:
        for done, path in enumerate(captures):
            if stop():
                break
            on_capture(done)
            try:
                pairs = _flow_labels(path, labels_of, settings, partitions, out)
            except InputError as error:
                out.counts["captures_unreadable"] += 1
                out.warnings.append(f"{error}; it is left out")
                continue
            ids = np.array([flow_id for flow_id, _ in pairs], np.uint64)
            kinds = np.array([numbers.setdefault(label, len(numbers)) for _, label in pairs], np.int64)
            order = np.argsort(ids, kind="stable")
            name = Path(path).name
            group = groups.get(name, name)
            out.sources.append(Source(path, name, _sha256(path), group, ids[order], kinds[order]))
    if not out.sources and not stop():
        raise InputError(out.warnings[0] if out.warnings else "no capture to read")
    out.labels = list(numbers)
    return out


def _flow_labels(
    path: str,
    labels_of: LabelTable | LabelsOf,
    settings: StreamsSettings,
    partitions: int,
    out: LabelledSources,
) -> list[tuple[int, str]]:
    """Return (flow id, label) of a capture's flows."""
    flows, summary = our_flows([path], settings, partitions, PROBE)
    out.warnings += summary.warnings
    if isinstance(labels_of, LabelTable):
        known = dict(zip(labels_of.flow_ids(PROBE).tolist(), labels_of.label, strict=True))
        found = [(flow.flow_id, known[flow.flow_id]) for flow in flows if flow.flow_id in known]
        out.counts.update(flows=len(flows), labelled=len(found), unmatched=len(flows) - len(found))
        return found
    labelled = join(flows, labels_of(path), guesses=False)
    out.counts.update(labelled.counts)
    return [(row.flow_id, row.label) for row in labelled.rows]


@contextmanager
def _labels_of(
    captures: Sequence[str], labels: str, settings: StreamsSettings, stop: Callable[[], bool]
) -> Iterator[LabelTable | LabelsOf]:
    """Give the table of a labels file, or what gives a capture's flows as nDPI or a table of captures has them."""
    if labels.lower() == NDPI:
        with closing(
            NdpiReader(settings.idle_timeout_s, settings.active_timeout_s, _DISSECTIONS, stop)
        ) as reader:
            yield reader.flows
    else:
        yield _read_table(captures, labels)


def _read_table(captures: Sequence[str], labels: str) -> LabelTable | LabelsOf:
    try:
        with Path(labels).open(encoding="utf-8-sig") as file:
            head = file.readline().strip().split(",")
    except UnicodeDecodeError:
        raise InputError(f"{labels}: is not UTF-8 text, so not a labels file") from None
    except OSError as error:
        raise InputError(f"{labels}: {error.strerror or error}") from None
    if "capture" not in head:
        return read_labels(labels)
    by_name: defaultdict[str, list[NdpiFlow]] = defaultdict(list)
    wanted = {Path(capture).name for capture in captures}
    for line, row in enumerate(_csv(Path(labels), _BY_CAPTURE), 2):
        if row["capture"] in wanted and row["app"]:
            try:
                by_name[row["capture"]].append(_told_flow(row))
            except ValueError as error:
                raise InputError(f"{labels}: line {line}: {error}") from None
    return lambda capture: iter(by_name.get(Path(capture).name, ()))


def _told_flow(row: dict[str, str]) -> NdpiFlow:
    """Return a row as a flow; where it grades its label, only the best grade is no guess."""
    a, b = _address(row["ip_a"])[0], _address(row["ip_b"])[0]
    name = row["proto"].lower()
    protocol = _PROTOCOLS[name] if name in _PROTOCOLS else int(name)
    return NdpiFlow(
        key=join_key(a, int(row["port_a"] or 0), b, int(row["port_b"] or 0), protocol),
        first_ms=int(float(row["first_seen"]) * 1000),
        last_ms=int(float(row["last_seen"]) * 1000),
        label=row["app"],
        guessed=any(row.get(name, "1") != "1" for name in _GRADES),
    )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_HASH_OCTETS):
            digest.update(block)
    return digest.hexdigest()


def groups_beside(labels: str) -> Path | None:
    """Return the ``captures.csv`` that lies beside a labels file, None if there is none."""
    beside = Path(labels).with_name("captures.csv")
    return beside if labels.lower() != NDPI and beside.is_file() else None


def counted(counts: Counter[str], names: Iterable[str]) -> dict[str, int]:
    """Return these counts, zeros too."""
    return {name: counts[name] for name in names}
