"""Runs ``flowgauge study cascade``: options to plan, progress, what is printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowgauge.cascade_data import flow_data
from flowgauge.interrupt import stopping
from models.flow.study.data import FlowData, load, save
from models.flow.study.make import write
from models.flow.study.plan import Plan, checked, settle
from models.flow.study.report import write_report
from models.flow.study.results import Result, results, summary
from models.flow.study.run import POINTS, Study, run
from models.packet.study.points import read_json, write_json
from schemas.errors import InputError, SettingsError
from streams.config import StreamsSettings

DATA_FILE = "flows.npz"
SUMMARY_FILE = "summary.json"
_MADE_OF = "flows.json"
_PLAIN_EVERY_S = 10.0
_NOTES_SHOWN = 5

Told = Callable[[str, int, int], None]
"""Told what is in work, how much is finished, and out of how much."""


def study(
    dataset: Path,
    labels: str | None,
    output: Path,
    plan: Plan,
    settings: StreamsSettings,
    least_flows: int,
    least_groups: int,
    as_json: bool,
) -> int:
    """Train what is missing of a study, write its report and cascade; return the exit code."""
    plan = checked(plan)
    _make_folder(output)
    with stopping() as stop, _progress() as tell:
        data = _data(dataset, labels, output, plan, settings, least_flows, least_groups, tell, stop)
        done = None
        if data is not None:
            settle(output, plan, data)
            total = len(plan.keys())
            done = run(data, output, plan, stop, lambda key, number: tell(f"trains {key}", number, total))
    if done is None:
        kept = len(list((output / POINTS).glob("*.json")))
        print(
            f"flowgauge: stopped with {kept} trainings kept in {output}; the same command goes on",
            file=sys.stderr,
        )
        return stop.exit_code
    found = results(done)
    bundle = write(done, output, found)
    report = write_report(done, output, found, bundle)
    told = summary(done, found)
    write_json(output / SUMMARY_FILE, told)
    if as_json:
        print(json.dumps({**told, "report": str(report), "cascade": str(bundle)}))
    else:
        _show(done, found, output, bundle, report)
    return 0


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made: {error.strerror}") from None


def _data(
    dataset: Path,
    labels: str | None,
    output: Path,
    plan: Plan,
    settings: StreamsSettings,
    least_flows: int,
    least_groups: int,
    tell: Told,
    stop: Callable[[], bool],
) -> FlowData | None:
    """Return the flows: those kept in ``output`` if they were made of the same, else made and kept."""
    made_of = {
        "dataset": str(dataset.resolve()),
        "labels": labels or "",
        "rows": [list(each) for each in plan.wanted()],
        "least_flows": least_flows,
        "least_groups": least_groups,
        "timeouts": [
            settings.idle_timeout_s,
            settings.active_timeout_s,
            settings.tcp_linger_s,
            settings.lateness_s,
        ],
    }
    path, note = output / DATA_FILE, output / _MADE_OF
    if path.exists() and note.exists():
        before = read_json(note)
        if before != made_of:
            key = next(key for key in made_of if before.get(key) != made_of[key])
            raise SettingsError(
                f"{note}: this study was begun with {key} {before.get(key)}, not {made_of[key]}; give the same "
                "options, or another -o"
            )
        return load(path)
    data = flow_data(dataset, labels, settings, plan.wanted(), least_flows, least_groups, tell, stop)
    if data is not None:
        save(path, data)
        write_json(note, made_of)
    return data


def _show(done: Study, found: Sequence[Result], output: Path, bundle: Path, report: Path) -> None:
    refused = [f"refused: {point.key}: {point.failure}" for point in done.points if point.failure]
    for notes in (done.data.notes, refused):
        for note in notes[:_NOTES_SHOWN]:
            print(f"flowgauge: {note}", file=sys.stderr)
        if len(notes) > _NOTES_SHOWN:
            print(f"flowgauge: and {len(notes) - _NOTES_SHOWN} more; the report has all", file=sys.stderr)
    told = summary(done, found)

    def mean(key: str) -> float:
        return float(told[key]["mean"])

    half = told["at_half"]
    print(f"{done.chosen.chain}")
    print(f"weighted F1: cascade {mean('f1'):.3f}, all flows on the slowest tier {mean('slow_f1'):.3f}, on the fast "
          f"one {mean('fast_f1'):.3f}; {mean('share_escalated'):.1%} of flows handed on")  # fmt: skip
    print(
        "at half of flows handed on: "
        + "; ".join(f"{name.replace('_', ' ')} F1 {each['f1']['mean']:.3f}, {each['caught']['mean']:.1%} of the fast "
                    "tier's errors" for name, each in half.items())
    )  # fmt: skip
    print(f"cascade: {bundle}")
    print(f"settings: {output / 'cascade.toml'}")
    print(f"report: {report}")


@contextmanager
def _progress() -> Iterator[Told]:
    """Show what is in work: a bar on a terminal, a line now and then elsewhere, on stderr."""
    if not sys.stderr.isatty():
        last = 0.0

        def plain(what: str, done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_EVERY_S:
                last = time.monotonic()
                print(f"flowgauge: {done} of {total}, {what}", file=sys.stderr, flush=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, completed=done, total=total, description=what)
