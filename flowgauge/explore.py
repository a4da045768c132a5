"""What ``flowgauge explore`` does: rows and prices once, then the search, then the front on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from flowgauge.feature_costs import step_progress
from flowgauge.interrupt import Stop, stopping
from flowgauge.settings import Effective, load
from flowgauge.settings_values import toml_value
from models.explore import front as fronts
from models.explore.costs import LINK_GBPS, Costs, KindPrices, Pricing
from models.explore.rows import Rows, make_rows
from models.explore.scoring import Judge, make_judge
from models.explore.search import Choice, search
from models.explore.tables import check_task, table_judge
from models.explore.task import NAME, Moment, Task, find_task
from models.explore.truth import Truth, read_truth
from schemas.errors import InputError, SettingsError
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.price_list import Step

STUDY, PRICES = "explore.json", "prices.json"
_PACKETS = 1 << 17
_SAY_EVERY_S = 5.0


@dataclass
class _Ready:
    """A moment with its rows judged."""

    judge: Judge
    decision_s: float
    rows_per_hour: float


def run(
    effective: Effective,
    task_name: str,
    captures: Sequence[str],
    labels: Sequence[str],
    tables: Sequence[str],
    output: Path,
    changed: dict[str, Any],
    trials: int,
    repeats: int,
    confirm: int,
    as_json: bool,
) -> int:
    """Search and write the front into ``output``; return the exit code."""
    settings = effective.get("streams", StreamsSettings)
    task = find_task(task_name)
    task = _changed(task, changed)
    captures, labels, tables = _expanded(captures), _expanded(labels), _expanded(tables)
    judge_of = _judge_of(task, captures, labels, tables)
    _settle(output, task, (*captures, *labels, *tables))
    with stopping() as stop:
        pricing = Pricing(captures, task.features, task.moments[-1], settings, _PACKETS)
        ready: dict[Moment, _Ready] = {}
        for moment in task.moments:
            if stop():
                return stop.exit_code
            _say(f"rows: {moment}")
            rows = make_rows(captures, task.features, moment, settings, task.least_flow_octets)
            judge, span_s = judge_of(rows)
            if span_s is None:
                span_s = float(np.median(rows.end_ns - rows.begin_ns)) / 1e9
            ready[moment] = _Ready(judge, span_s, pricing.rows_per_hour(rows))
        with step_progress() as on_step:
            prices = _prices(output, pricing, task, repeats, on_step, stop)
            if prices is None:
                return stop.exit_code

            def evaluate(moment: Moment, some: list[int]) -> tuple[float, Costs]:
                at = ready[moment]
                return at.judge.score(some), prices[moment.kind].costs(some, at.rows_per_hour, at.decision_s)

            levels = _levels(task, settings)
            first = [(moment, some) for moment in task.moments for some in levels.values()]
            tried = search(
                output,
                len(task.features),
                task.moments,
                evaluate,
                first,
                trials,
                task.metric == "rmse",
                lambda done, total: on_step("trials", done, total),
                stop,
            )
        if stop():
            print(
                f"flowgauge: stopped with {len(tried)} choices in {output}; the same command goes on",
                file=sys.stderr,
            )
            return stop.exit_code
        measured = _confirm(pricing, task, ready, tried, confirm, repeats)
    report = _report(task_name, task, settings, ready, tried, levels, measured, trials)
    _write(output, report, task, settings)
    if as_json:
        print(json.dumps(report))
    else:
        print(fronts.markdown(report["front"], task.metric), end="")
        print(f"front, plot and settings files: {output}")
    return 0


def _judge_of(
    task: Task, captures: Sequence[str], labels: Sequence[str], tables: Sequence[str]
) -> Callable[[Rows], tuple[Judge, float | None]]:
    """Return what judges rows and tells their median time to decision: by labels, or by tables in their stead."""
    if tables:
        if labels:
            raise SettingsError("--tables hold their labels: give no --labels")
        check_task(task)
        judged = table_judge(task, tables)
        return lambda rows: judged
    if not labels:
        raise SettingsError("--labels are missing, or --tables with labels in them")
    truth = read_truth(labels, captures, task.label_column)
    return lambda rows: _by_labels(task, rows, truth)


def _by_labels(task: Task, rows: Rows, truth: Truth) -> tuple[Judge, float]:
    judge = make_judge(task, rows, truth(rows))
    return judge, float(np.median(judge.rows.end_ns - judge.rows.begin_ns)) / 1e9


def _say(text: str) -> None:
    print(f"flowgauge: {text}", file=sys.stderr, flush=True)


def _changed(task: Task, options: dict[str, Any]) -> Task:
    """Return a task with what options change; raises SettingsError for a value that is not allowed."""
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return Task.model_validate({**task.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise SettingsError(f"--{option} {first['input']}: {first['msg']}") from None


def _expanded(given: Sequence[str]) -> list[str]:
    """Return the files that names and patterns stand for; a pattern that matches none stays, to be told of."""
    return [path for text in given for path in (sorted(glob(text)) or [text])]  # noqa: PTH207


def _settle(folder: Path, task: Task, paths: Sequence[str]) -> None:
    """Write what the search is made of, or check that the one in ``folder`` is of the same."""
    try:
        files = [[Path(p).name, Path(p).stat().st_size] for p in paths]
        made = json.loads(json.dumps({"version": 1, "task": task.model_dump(), "files": files}))
        path = folder / STUDY
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) != made:
                raise SettingsError(f"{path}: that search is of another task or other files; give another -o")
            return
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{folder / STUDY}: not JSON: {error}") from None


def _prices(
    folder: Path, pricing: Pricing, task: Task, repeats: int, on_step: Step, stop: Stop
) -> dict[str, KindPrices] | None:
    """Return the candidates' prices by kind of rows, measured at the middle one of its moments, or kept of before."""
    path = folder / PRICES
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    out: dict[str, KindPrices] = {}
    for kind in dict.fromkeys(moment.kind for moment in task.moments):
        if kind not in kept:
            of_kind = [moment for moment in task.moments if moment.kind == kind]
            found = pricing.kind(task.features, of_kind[len(of_kind) // 2], repeats, on_step, stop)
            if found is None:
                return None
            kept[kind] = found.as_dict()
            path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        out[kind] = KindPrices(**kept[kind])
    return out


def _levels(task: Task, settings: StreamsSettings) -> dict[str, tuple[int, ...]]:
    """Return the candidates of each level, of two and of all, by the levels' names."""
    (rep,) = resolve([task.moments[0].representation(task.features)], settings.feature_files)
    order = ("network", "transport", "application")
    by_level = {
        level: tuple(i for i, slot in enumerate(rep.slots) if slot.feature.level == level) for level in order
    }
    there = [level for level in order if by_level[level]]
    sets: dict[str, tuple[int, ...]] = {"counts alone": ()}
    for mask in range(1, 1 << len(there)):
        names = [level for bit, level in enumerate(there) if mask >> bit & 1]
        sets[" + ".join(names)] = tuple(sorted(i for name in names for i in by_level[name]))
    return sets


def _confirm(
    pricing: Pricing, task: Task, ready: dict[Moment, _Ready], tried: list[Choice], most: int, repeats: int
) -> dict[Choice, Costs]:
    """Measure the kernels of the front's best choices by quality and CPU alone."""
    smaller, best_cpu, chosen = task.metric == "rmse", float("inf"), list[Choice]()
    for choice in fronts.pareto(tried, smaller):
        if choice.costs.cpu_ns < best_cpu and len(chosen) < most:
            best_cpu = choice.costs.cpu_ns
            chosen.append(choice)
    out = {}
    for choice in chosen:
        _say(f"measuring: {choice.moment}, {len(choice.candidates)} features")
        at = ready[choice.moment]
        names = tuple(task.features[i] for i in choice.candidates)
        out[choice] = pricing.whole(names, choice.moment, repeats, at.rows_per_hour, at.decision_s)
    return out


def _report(
    name: str,
    task: Task,
    settings: StreamsSettings,
    ready: dict[Moment, _Ready],
    tried: list[Choice],
    levels: dict[str, tuple[int, ...]],
    measured: dict[Choice, Costs],
    trials: int,
) -> dict[str, Any]:
    smaller = task.metric == "rmse"
    judge = ready[task.moments[0]].judge
    front = fronts.pareto(tried, smaller)
    best: dict[str, Any] = {}
    for level, some in levels.items():
        found = [c for c in tried if c.candidates == some]
        if found:
            chosen = (min if smaller else max)(found, key=lambda c: c.quality)
            best[level] = fronts.told(chosen, task.features)
    return {
        "task": name,
        "metric": task.metric,
        "trials": trials,
        "link_gbps": LINK_GBPS,
        "judged": {
            "rows": len(judge.labels),
            "classes": list(judge.classes),
            "group_by": judge.group_by,
            "groups": len(np.unique(judge.groups)),
            "folds": judge.folds,
        },
        "front": [
            {**fronts.told(c, task.features, measured.get(c)), "settings": f"settings/{number:02}.toml"}
            for number, c in enumerate(front, 1)
        ],
        "levels": best,
        "tried": [fronts.told(c, task.features) for c in tried],
        "moments": {f"settings/{number:02}.toml": _moment(c.moment) for number, c in enumerate(front, 1)},
    }


def _moment(moment: Moment) -> dict[str, Any]:
    return {"kind": moment.kind, "every_s": moment.every_s, "depth": moment.depth}


def _write(folder: Path, report: dict[str, Any], task: Task, settings: StreamsSettings) -> None:
    """Write the front, the plot and a settings file for each point, which is then read as a worker would."""
    try:
        (folder / "settings").mkdir(exist_ok=True)
        for old in (folder / "settings").glob("*.toml"):
            old.unlink()
        for point in report["front"]:
            path = folder / point["settings"]
            path.write_text(
                _settings(point, report["moments"][point["settings"]], report, settings), encoding="utf-8"
            )
            load(path, environment={})
        fronts.write(folder, report)
        if not fronts.draw(folder, report):
            print("flowgauge: no plot: matplotlib comes with the extra study", file=sys.stderr)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None


def _settings(
    point: dict[str, Any], moment: dict[str, Any], report: dict[str, Any], streams: StreamsSettings
) -> str:
    costs = point["measured"] or point["costs"]
    lines = [
        f"# flowgauge explore, {report['task']}: {report['metric']} {point['quality']:.3f} at {point['when']};",
        f"# {costs['cpu_ns']:.0f} ns of CPU a packet, {costs['state_bytes']:.0f} bytes of state a flow, "
        f"{costs['storage_gb']:.1f} GB an hour at {report['link_gbps']:g} Gb/s.",
        "",
        "[streams]",
        f"feature_files = {toml_value(list(streams.feature_files))}",
        "",
        "[[streams.representations]]",
        f"name = {toml_value(NAME)}",
        *(f"{key} = {toml_value(value)}" for key, value in moment.items()),
        f"features = {toml_value(point['features'])}",
        "",
        "[models]",
        f"representations = {toml_value([NAME])}",
    ]
    return "\n".join(lines) + "\n"
