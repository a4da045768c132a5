"""Runs ``flowgauge study packets`` and ``flowgauge study export``: options to plan, progress, what is printed."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowgauge.interrupt import stopping
from models.packet.budgets import EMBEDDED
from models.packet.dataset import PacketDataset
from models.packet.study.plan import MOST_SEEDS, STUDY_FILE, Plan, checked, manifest_sha256, settle
from models.packet.study.points import Key, Point, read_json, read_point, read_weights
from models.packet.study.report import Costs, champion, write_report
from models.packet.study.run import POINTS, best_rates, run
from models.packet.study.speeds import SPEEDS, speeds_of
from schemas.errors import InputError, SettingsError

_PLAIN_EVERY_S = 10.0


def study(dataset: Path, output: Path, plan: Plan, speeds: bool) -> int:
    """Train what is missing of a study and write its report; return the exit code."""
    plan = checked(plan)
    _quiet_trainer()
    if plan.together:
        from models.packet.together import require_jax

        require_jax()
    opened = PacketDataset.open(dataset)
    made = settle(output, plan, opened)
    with stopping() as stop:
        with _progress(len(plan.keys())) as told:
            points = run(opened, output, plan, stop, told)
        costs = _costs(output, points, stop) if points and speeds else {}
    if points is None or stop():
        kept = len(list((output / POINTS).glob("*.json")))
        print(
            f"flowgauge: stopped with {kept} trainings kept in {output}; the same command goes on",
            file=sys.stderr,
        )
        return stop.exit_code
    report = write_report(output, made, points, costs)
    _show(points)
    print(f"report: {report}")
    return 0


def export(
    point_file: Path, registry: Path, name: str, version: str | None, together_on: Path | None = None
) -> int:
    """Export a finished point as a model that can be served; return the exit code.

    Args:
        point_file: the point.
        registry: folder of models.
        name: of the model.
        version: of the model; None: named after the point.
        together_on: data set of the study; then the model is the mean of this point and those of the other seeds, and
            its card says what it scores together.
    """
    from models.packet.export import export as exported
    from models.packet.training import parts, scored_together

    _quiet_trainer()
    point, made = read_point(point_file), read_json(point_file.parent.parent / STUDY_FILE)
    if point.failure:
        raise InputError(f"{point_file}: {point.failure}; there is nothing to export")
    files = [point_file] if together_on is None else _all_seeds(point_file, point.key)
    members, kept = [read_weights(file) for file in files], point.key.name
    if together_on is not None:
        data = PacketDataset.open(together_on)
        if manifest_sha256(data) != made["dataset_sha256"]:
            raise InputError(f"{together_on}: is not the data set of the study {point_file.parent.parent}")
        scores = scored_together(point.topology, members, parts(data, point.key.split))
        point, kept = replace(point, scores=scores), f"{kept.rpartition('-')[0]}-x{len(members)}"
    card = _card(point, made, point_file.parent.parent)
    folder = exported(registry, name, version or kept, point.topology, members, card)
    count = f"{len(members)} times " if len(members) > 1 else ""
    print(f"{count}{point.topology}, {len(members) * point.topology.parameters:,} parameters: {folder}")
    if len(members) > 1:
        print(f"test packets of the split {point.key.split}: accuracy {point.test.accuracy:.1%}, "
              f"by vote of the flow {point.test.vote_accuracy:.1%}")  # fmt: skip
    return 0


def _all_seeds(point_file: Path, key: Key) -> list[Path]:
    """Return the files of a point and of its other seeds, as many as have weights; raises InputError for one alone."""
    seeds = range(1, MOST_SEEDS + 1)
    files = [point_file.with_name(f"{replace(key, seed=seed).name}.json") for seed in seeds]
    found = [file for file in files if file.with_suffix(".npz").exists()]
    if len(found) < 2:
        raise InputError(f"{point_file}: an ensemble needs a study with --seeds 2 or more")
    return found


def _card(point: Point, made: dict[str, Any], folder: Path) -> dict[str, Any]:
    scores = {
        part: {"packets": found.packets, "accuracy": found.accuracy, "macro_f1": found.macro_f1}
        for part, found in point.scores.items()
    }
    speeds = folder / SPEEDS / f"{point.key.kind}-{point.key.budget}.json"
    return {
        "classes": made["classes"],
        "data": {"name": made["dataset"], "manifest_sha256": made["dataset_sha256"]},
        "split": {"name": point.key.split, "shares": "64/16/20"},
        "training": {
            **made["recipe"],
            "rate": point.key.rate,
            "seed": point.key.seed,
            "epochs_run": point.epochs,
        },
        "scores": {**scores, "flow_vote_accuracy": point.test.vote_accuracy},
        "cost": read_json(speeds) if speeds.exists() else {},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def best_point(output: Path, split: str) -> Path:
    """Return the file of a study's best LSTM, or best model without one, by validation accuracy.

    Raises:
        InputError: the study has no finished point of that split.
    """
    files = {point.key: path for path in (output / POINTS).glob("*.json") if (point := read_point(path))}
    best = best_rates(read_point(path) for path in files.values())
    lstms = {place: some for place, some in best.items() if place[1] in ("lstm", f"lstm{EMBEDDED}")}
    found = champion(lstms, split) or champion(best, split)
    if not found:
        raise InputError(f"{output}: no finished training of the split {split}")
    return files[max(found, key=lambda point: point.scores["validation"].accuracy).key]


def _costs(output: Path, points: list[Point], stop: Callable[[], bool]) -> Costs:
    costs: Costs = {}
    for (_, kind, budget), some in best_rates(points).items():
        if stop():
            break
        if (kind, budget) not in costs:
            costs[kind, budget] = speeds_of(output / SPEEDS, output / POINTS, some[0])
    return costs


def _show(points: list[Point]) -> None:
    best = best_rates(points)
    for split in sorted({split for split, _, _ in best}):
        for kind in dict.fromkeys(kind for _, kind, _ in best):
            some = champion(best, split, kind)
            if some:
                test = some[0].test
                print(f"{split:8} {some[0].topology!s:28} {some[0].topology.parameters:>9,} parameters  "
                      f"accuracy {test.accuracy:.1%}, macro F1 {test.macro_f1:.1%}, "
                      f"by vote of the flow {test.vote_accuracy:.1%}")  # fmt: skip
    for point in points:
        if point.failure:
            print(f"failed: {point.key}: {point.failure}", file=sys.stderr)


def _quiet_trainer() -> None:
    """Import Keras without the notes about the machine that its backend writes to stderr, whatever it is told."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import keras

        keras.backend.backend()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Key, int, int], None]]:
    """Show which training runs: a bar on a terminal, a line now and then elsewhere, on stderr."""
    if not sys.stderr.isatty():
        yield _lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}")
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda key, done, epoch: bar.update(task, completed=done, description=f"{key}, epoch {epoch}")


def _lines(total: int) -> Callable[[Key, int, int], None]:
    last = 0.0

    def told(key: Key, done: int, epoch: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY_S:
            last = now
            print(
                f"flowgauge: {done} of {total} trainings done; {key}, epoch {epoch}",
                file=sys.stderr,
                flush=True,
            )

    return told


def parse_budget(text: str) -> int:
    """Return a budget in parameters: ``15000``, ``15k`` or ``1M``; raises SettingsError otherwise."""
    scale = {"k": 1000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    if not digits.isascii() or not digits.isdigit() or not 1000 <= int(digits) * scale <= 20_000_000:
        raise SettingsError(f"--budgets {text}: a number of parameters, such as 15k or 1M, up to 20M")
    return int(digits) * scale
