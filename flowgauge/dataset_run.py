"""Captures and labels to a data set of packets, and what ``flowgauge dataset`` prints."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgauge.dataset_labels import (
    NDPI,
    LabelledSources,
    counted,
    groups_beside,
    label_captures,
    read_groups,
)
from flowgauge.interrupt import stopping
from flowgauge.progress import progress
from flowgauge.settings import Effective
from models.packet.build import BuildOptions, Built, build, check_folder
from models.packet.choose import ClassRules
from producers.config import BusSettings
from producers.sources.capture import STDIN
from schemas.errors import SettingsError
from streams.config import StreamsSettings
from streams.flow_rules import flow_rules

_LABEL_COUNTS = ("flows", "labelled", "unknown", "guessed", "ambiguous", "unmatched", "captures_unreadable")
_WARNINGS_SHOWN = 5


def run(
    effective: Effective,
    captures: Sequence[str],
    labels: str,
    groups: Path | None,
    output: Path,
    per_class: int,
    per_flow: int | None,
    seed: int,
    rules: ClassRules,
    as_json: bool,
) -> int:
    """Label the captures, write the data set and print what it holds."""
    if STDIN in captures:
        raise SettingsError("dataset: standard input cannot be read twice; give a file")
    streams, bus = effective.get("streams", StreamsSettings), effective.get("bus", BusSettings)
    names = [Path(path).name for path in captures]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"dataset: two captures are named {sorted(twice)[0]}")
    check_folder(output)
    table = groups or groups_beside(labels)
    with stopping() as stop, progress("read") as update:
        found = label_captures(
            captures,
            labels,
            read_groups(table) if table else {},
            streams,
            bus.partitions,
            stop,
            lambda done: update(0, done / len(captures) / 3),
        )
        options = BuildOptions(
            per_class=per_class,
            per_flow=per_flow,
            seed=seed,
            rules=rules,
            flow_rules=flow_rules(streams),
            partitions=bus.partitions,
            about={"labels": _about(labels, found, table)},
        )

        def tell(packets: int, share: float) -> None:
            update(packets, (1 + 2 * share) / 3)
            if stop():
                raise KeyboardInterrupt

        if stop():
            return stop.exit_code
        try:
            built = build(output, found.sources, found.labels, options, tell)
        except KeyboardInterrupt:
            if not stop():
                raise
            return stop.exit_code
    _show(found, built, output, as_json)
    return 0


def _about(labels: str, found: LabelledSources, groups: Path | None) -> dict[str, Any]:
    """Return what the manifest says of the labels."""
    told: dict[str, Any] = {"counts": counted(found.counts, _LABEL_COUNTS)}
    if labels.lower() == NDPI:
        from flowgauge.ndpi import ndpi_version

        told["from"] = f"nDPI {ndpi_version()}"
    else:
        told["from"] = Path(labels).name
        told["sha256"] = hashlib.sha256(Path(labels).read_bytes()).hexdigest()
    if groups is not None:
        told["groups"] = groups.name
    return told


def _show(found: LabelledSources, built: Built, output: Path, as_json: bool) -> None:
    lines = found.warnings + built.notes
    for line in lines[:_WARNINGS_SHOWN] if not as_json else lines:
        print(f"flowgauge: warning: {line}", file=sys.stderr)
    if not as_json and len(lines) > _WARNINGS_SHOWN:
        more = len(lines) - _WARNINGS_SHOWN
        print(f"flowgauge: warning: and {more} more; --json tells all", file=sys.stderr)
    manifest = built.manifest
    if as_json:
        kept = {key: value for key, value in manifest.items() if key != "sources"}
        print(json.dumps({**kept, "captures": len(found.sources), "output": str(output), "warnings": lines}))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for name in ("packets", "of", "flows", "captures", "groups", "handshake"):
        table.add_column(name, justify="right")
    for name, c in manifest["counts"].items():
        table.add_row(
            name,
            *(
                str(c[key])
                for key in ("packets", "packets_found", "flows", "captures", "groups", "handshake")
            ),
        )
    console = Console()
    console.print(table)
    counts, packets = found.counts, manifest["packets"]
    console.print(
        f"{counts['labelled']} of {counts['flows']} flows of {len(found.sources)} captures labelled; "
        f"{packets['rows']} of {packets['packets']} packets with payload, {packets['truncated']} cut by the capture, "
        f"{packets['fragments']} fragments",
        highlight=False,
    )
    console.print(
        f"{manifest['rows']} packets of {len(manifest['classes'])} classes in {output}", highlight=False
    )
