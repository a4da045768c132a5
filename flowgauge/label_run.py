"""Captures to labels, and what ``flowgauge label`` prints."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from flowgauge.interrupt import stopping
from flowgauge.labelling import Labelled, LabelRow, join, our_flows
from flowgauge.ndpi import NdpiFlow, NdpiReader, ndpi_version
from flowgauge.progress import progress
from flowgauge.publishing import publish
from flowgauge.settings import Effective
from producers.config import BusSettings
from producers.labels import COLUMNS
from producers.probes import parse_probes
from producers.sources.capture import STDIN
from schemas.errors import InputError, SettingsError
from schemas.flow_key import format_flow_id
from streams.config import StreamsSettings

OFFLINE = "offline"
_LABELS_SHOWN = 20


def run(
    effective: Effective,
    captures: Sequence[str],
    output: Path | None,
    probe: str | None,
    to_bus: bool,
    guesses: bool,
    dissections: int,
    as_json: bool,
) -> int:
    """Label the captures' flows, write or publish the labels, and print the counts."""
    _check(captures, output, probe, to_bus)
    version = ndpi_version()
    bus, streams = effective.get("bus", BusSettings), effective.get("streams", StreamsSettings)
    with stopping() as stop:
        with progress("read", plain=False) as update:
            flows, summary = our_flows(captures, streams, bus.partitions, probe or OFFLINE, update)
        found = join(flows, _ndpi(captures, streams, dissections, stop), guesses)
        if stop():
            # Half of the captures would look like all of them.
            return stop.exit_code
        for warning in summary.warnings:
            print(f"flowgauge: warning: {warning}", file=sys.stderr)
        published: dict[str, int] = {}
        if output is not None:
            write_labels(output, found.rows)
        if probe is not None:
            published = publish(_records(found.rows, probe, f"nDPI {version}"), bus, stop)
    _show(found, output, published, version, as_json)
    return stop.exit_code


def _check(captures: Sequence[str], output: Path | None, probe: str | None, to_bus: bool) -> None:
    if STDIN in captures:
        raise SettingsError("label: standard input cannot be read twice; give a file")
    if output is None and probe is None:
        raise SettingsError("label: nowhere to put the labels; give -o FILE, or --probe NAME for the bus")
    if to_bus and probe is None:
        raise SettingsError("label: --bus needs --probe NAME: it is a part of the flows' ids")
    if probe is not None:
        parse_probes([STDIN], [probe])


def _ndpi(
    captures: Sequence[str], streams: StreamsSettings, dissections: int, stop: Callable[[], bool]
) -> Iterator[NdpiFlow]:
    with closing(NdpiReader(streams.idle_timeout_s, streams.active_timeout_s, dissections, stop)) as reader:
        for path in captures:
            yield from reader.flows(path)
            if stop():
                return


def write_labels(path: Path, rows: Iterable[LabelRow]) -> None:
    """Write a labels file, whole or not at all; the last column says how sure nDPI was.

    Raises:
        InputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*COLUMNS, "confidence"))
            for row in rows:
                values = (getattr(row, column) for column in COLUMNS)
                writer.writerow((*values, "guess" if row.guessed else "payload"))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _records(rows: Iterable[LabelRow], probe: str, source: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {
            "schema_version": 1,
            "flow_id": format_flow_id(row.flow_id),
            "probe": probe,
            "label": row.label,
            "source": f"{source}, guessed" if row.guessed else source,
            "start_ns": row.start_ns,
            "published_time_ns": time.time_ns(),
        }


def _show(
    found: Labelled, output: Path | None, published: dict[str, int], version: str, as_json: bool
) -> None:
    names = (
        "flows",
        "labelled",
        "unknown",
        "guessed",
        "ambiguous",
        "unmatched",
        "ndpi_flows",
        "ndpi_unmatched",
    )
    counts = {name: found.counts[name] for name in names}
    labels = Counter(row.label for row in found.rows)
    guessed = sum(row.guessed for row in found.rows)
    if as_json:
        by_label = dict(labels.most_common())
        where = {"output": str(output) if output else None, "ndpi": version}
        print(json.dumps({**counts, "labelled_by_guess": guessed, **published, "labels": by_label, **where}))
        return
    shown = ", ".join(f"{count} {label}" for label, count in labels.most_common(_LABELS_SHOWN))
    more = len(labels) - _LABELS_SHOWN
    print(f"{counts['labelled']} of {counts['flows']} flows labelled by nDPI {version}: {shown or 'none'}"
          + (f" and {more} more" if more > 0 else ""))  # fmt: skip
    left = {
        "that nDPI does not know": counts["unknown"],
        "known by port or address alone (--guesses takes them)": counts["guessed"],
        "with several labels": counts["ambiguous"],
        "that NFStream has not": counts["unmatched"],
    }
    if out := "; ".join(f"{count} {why}" for why, count in left.items() if count):
        print(f"left out: {out}")
    if guessed:
        print(f"{guessed} of the labels are guesses by port or address")
    if output is not None:
        print(f"{len(found.rows)} labels in {output}")
    if published:
        print(f"{published['labels_published']} labels published")
