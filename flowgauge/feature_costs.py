"""What ``flowgauge cost`` does: reads packets, has features priced, tells the prices."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flowgauge.feature_costs_view import as_markdown, draw, show
from flowgauge.interrupt import stopping
from flowgauge.progress import progress
from flowgauge.settings import Effective
from schemas.errors import InputError, SettingsError
from streams.config import RepresentationSettings, StreamsSettings
from streams.feature import available_features
from streams.price_list import Price, PriceList, PriceMaker, Step, all_needs, needs_of
from streams.prices import Footprint, Load, read_load
from streams.user_features import user_features

ALL = "all"
_HOUR_S = 3600
_PLAIN_EVERY_S = 5.0


def run(
    effective: Effective,
    captures: Sequence[str],
    features: str | None,
    representation: str,
    repeats: int,
    max_packets: int,
    link_gbps: float,
    output: Path | None,
    as_json: bool,
) -> int:
    """Price features on captures and tell the prices; return the exit code."""
    settings = effective.get("streams", StreamsSettings)
    rep = find_representation(settings, representation)
    names = chosen_features(features, settings, rep)
    with stopping() as stop:
        load, names = _read(captures, settings, rep, names, max_packets, asked=features != ALL)
        with step_progress() as on_step:
            found = PriceMaker(settings, rep, load).price(names, repeats, on_step, stop)
        if found is None:
            return stop.exit_code
    report = as_object(found, load, rep, captures, repeats, link_gbps)
    if output is not None:
        _write(output, report)
    if as_json:
        print(json.dumps(report))
    else:
        show(report)
    return 0


def find_representation(settings: StreamsSettings, name: str) -> RepresentationSettings:
    """Return a representation of the settings, or what a service collects; raises SettingsError."""
    for rep in settings.computed:
        if rep.name == name:
            return rep
    known = ", ".join(rep.name for rep in settings.computed)
    raise SettingsError(f"--representation {name}: the settings have {known}")


def chosen_features(
    text: str | None, settings: StreamsSettings, rep: RepresentationSettings
) -> tuple[str, ...]:
    """Return the features that an option names: a list, ``all``, or those of the representation."""
    if text is None:
        return rep.features
    own = user_features(settings.feature_files)
    if text.strip() == ALL:
        return (*available_features(), *own)
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    known = {*available_features(), *own}
    for name in names:
        if name not in known:
            raise SettingsError(
                f"--features: no feature is named {name!r}; there are {', '.join(sorted(known))}"
            )
    if not names:
        raise SettingsError("--features names none")
    return names


def _read(
    captures: Sequence[str],
    settings: StreamsSettings,
    rep: RepresentationSettings,
    names: tuple[str, ...],
    max_packets: int,
    asked: bool,
) -> tuple[Load, tuple[str, ...]]:
    """Return packets, and the features that these have what is needed for."""
    needs = needs_of(names, settings, rep)
    with progress("read") as update:
        load = read_load(captures, all_needs(needs), max_packets, lambda packets: update(packets, None))
    lacking = {name: missing for name in names if (missing := load.lacks(needs[name]))}
    for name, missing in lacking.items():
        told = f"{', '.join(captures)}: no {missing}, which the feature {name} needs"
        if asked:
            raise InputError(told)
        print(f"flowgauge: warning: {told}; it is left out", file=sys.stderr)
    return load, tuple(name for name in names if name not in lacking)


@contextmanager
def step_progress() -> Iterator[Step]:
    """Show how far compiling and measuring are: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("kernels", total=None)
        yield lambda what, done, total: bar.update(
            task, completed=done, total=total, description=_WORDS.get(what, what)
        )


_WORDS = {"compiled": "kernels compiled", "measured": "measured", "trials": "choices tried"}


def _lines() -> Step:
    last = time.monotonic()

    def told(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY_S:
            last = now
            print(f"flowgauge: {_WORDS.get(what, what)}: {done} of {total}", file=sys.stderr, flush=True)

    return told


def as_object(
    found: PriceList,
    load: Load,
    rep: RepresentationSettings,
    captures: Sequence[str],
    repeats: int,
    link_gbps: float,
) -> dict[str, Any]:
    """Return the prices as ``--json`` prints them."""
    per_hour = load.link_packets_per_s(link_gbps) * found.whole.rows / load.packets * _HOUR_S
    """Rows; every kernel of a representation makes the same."""

    def price(one: Price) -> dict[str, Any]:
        return {
            "cpu_ns_per_packet": asdict(one.cpu),
            "record_bytes": one.record_bytes,
            "plain_record_bytes": one.plain_record_bytes,
            "storage_bytes_per_hour": one.record_bytes * per_hour,
        }

    def left(one: Footprint) -> dict[str, Any]:
        return {
            "state_bytes_per_flow": one.state_bytes,
            "record_bytes": one.record_bytes,
            "plain_record_bytes": one.plain_bytes_of_row,
            "storage_bytes_per_hour": one.record_bytes * per_hour,
        }

    return {
        "captures": list(captures),
        "packets": load.packets,
        "cut": load.cut,
        "flows": found.whole.flows,
        "rows": found.whole.rows,
        "representation": {"name": rep.name, "kind": rep.kind, "every_s": rep.every_s, "depth": rep.depth},
        "repeats": repeats,
        "link": {"gbps": link_gbps, "packets_per_s": load.link_packets_per_s(link_gbps)},
        "base": {"cpu_ns_per_packet": asdict(found.base_cpu), **left(found.base)},
        "together": {
            "features": [f.name for f in found.features],
            **price(found.together),
            **left(found.whole),
        },
        "features": [
            {
                "name": f.name,
                "level": f.level,
                "state_bytes_per_flow": f.state_bytes,
                "packet_bytes": f.packet_bytes,
                "alone": price(f.alone),
                "company": price(f.company),
            }
            for f in found.features
        ],
    }


def _write(folder: Path, report: dict[str, Any]) -> None:
    """Write ``cost.json``, ``cost.md`` and, where matplotlib is there, ``cost.svg`` and ``cost.png``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cost.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "cost.md").write_text(as_markdown(report), encoding="utf-8")
        drawn = draw(folder, report)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    if not drawn:
        print(
            "flowgauge: no plot: matplotlib comes with the extra study: pip install 'flowgauge[study]'",
            file=sys.stderr,
        )
