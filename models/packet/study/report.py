"""The report of a study: Markdown with the Cape Town study's figures, made of the finished points alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.packet.scores import Scores, interval
from models.packet.study.figures import COLOURS, Figure, Line, draw, draw_confusion
from models.packet.study.points import Point, write_whole
from models.packet.study.run import best_rates
from models.packet.study.speeds import BATCHES, Speeds

REPORT = "report.md"
Best = dict[tuple[str, str, int], list[Point]]
Costs = dict[tuple[str, int], Speeds]
"""By kind and budget."""
_EQUAL_BUDGET = 700_000


def write_report(folder: Path, study: dict[str, Any], points: list[Point], costs: Costs) -> Path:
    """Write ``report.md`` and its figures into ``folder``.

    Args:
        folder: of the study.
        study: what it was made of, as ``settle`` returned it.
        points: all points.
        costs: the speeds that were measured; may be empty.
    """
    best = best_rates(points)
    lines = [*_head(study, points), *_table(best), *_sides(best), *_figures(folder, best, costs)]
    if costs:
        lines += _cost_table(best, costs)
    lines += _confusions(folder, best, study["classes"])
    lines += _failures(points)
    write_whole(folder / REPORT, ("\n".join(lines).rstrip() + "\n").encode())
    return folder / REPORT


def champion(best: Best, split: str, kind: str | None = None) -> list[Point]:
    """Return the points of the split's best model by validation accuracy, of one kind or of all; may be empty."""
    found = [points for (where, what, _), points in best.items() if where == split and kind in (None, what)]
    return max(found, key=lambda points: _mean(points, "validation", "accuracy"), default=[])


def _mean(points: list[Point], part: str, value: str) -> float:
    return sum(getattr(point.scores[part], value) for point in points) / len(points)


def _splits(best: Best) -> list[str]:
    return sorted({split for split, _, _ in best}, key=("random", "flow", "capture").index)


def _kinds(best: Best) -> list[str]:
    present = {kind for _, kind, _ in best}
    return [kind for kind in COLOURS if kind in present]


def _head(study: dict[str, Any], points: list[Point]) -> list[str]:
    recipe = study["recipe"]
    seeds = len({point.key.seed for point in points})
    asides = [
        f"{recipe['mask']:.0%} of the octets masked while training" if recipe["mask"] else "",
        f"{recipe['replace']:.0%} of the octets replaced by random ones" if recipe["replace"] else "",
        f"dropout {recipe['dropout']:g}" if recipe["dropout"] else "",
        "flows weighed by the square root of their packets" if recipe["by_flow"] else "",
        f"{study['most_rows']:,} packets to train on at most" if study["most_rows"] else "",
    ]
    aside = "".join(f", {text}" for text in asides if text)
    lines = [
        "# Study of per-packet classifiers",
        "",
        f"Data set `{study['dataset']}` (SHA-256 of its manifest `{study['dataset_sha256'][:16]}…`), "
        f"{len(study['classes'])} classes: {', '.join(study['classes'])}.",
        f"Up to {recipe['epochs']} epochs, stopped {recipe['patience']} after the best on validation, batches of "
        f"{recipe['batch']}{aside}.",
        f"{len(points)} trainings, {_count(seeds, 'seed')}; of each model and budget, the rate that is best on "
        "validation is shown, scored on test packets that neither training nor choice has seen.",
        "",
        "**random** splits by packet, as the Cape Town study did: packets of one flow are on both sides, so a high "
        "figure is in part memory of flows. **flow** keeps each flow on one side, **capture** each group of "
        "captures: these say what to expect of traffic not seen before.",
        "",
    ]
    for split in dict.fromkeys(point.key.split for point in points):
        shown = next((p.test for p in points if p.key.split == split and not p.failure), None)
        if shown is not None:
            largest = max(sum(row) for row in shown.confusion) / shown.packets
            lines.append(f"- {split}: {shown.packets:,} test packets of {_count(shown.flows, 'flow')}; "
                         f"always answering the largest class would score {largest:.1%}")  # fmt: skip
    return [*lines, ""]


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _table(best: Best) -> list[str]:
    lines = ["## Scores", ""]
    columns = (
        "accuracy",
        "macro F1",
        "accuracy, no handshakes",
        "accuracy, flows vote",
        "flows right by vote",
    )
    header = ("split", "model", "parameters", "rate", *columns, "accuracy in training")
    lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for split in _splits(best):
        for kind in _kinds(best):
            for (where, what, _), points in best.items():
                if (where, what) == (split, kind):
                    lines.append(_row(split, points))
    return [*lines, ""]


def _row(split: str, points: list[Point]) -> str:
    first = points[0]

    def cell(part: str, value: str) -> str:
        return percent([getattr(point.scores[part], value) for point in points])

    cells = [
        split,
        str(first.topology),
        f"{first.topology.parameters:,}",
        f"{first.key.rate:g}",
        cell("test", "accuracy"),
        cell("test", "macro_f1"),
        cell("without_handshake", "accuracy"),
        cell("test", "vote_accuracy"),
        cell("test", "flow_accuracy"),
        cell("train", "accuracy"),
    ]
    return f"| {' | '.join(cells)} |"


def _sides(best: Best) -> list[str]:
    """Return a table of the splits side by side, a row for each model and budget that has both."""
    splits = _splits(best)
    if len(splits) < 2:
        return []
    shown = {"": ("test", "accuracy"), " no handshakes": ("without_handshake", "accuracy"),
             " flows vote": ("test", "vote_accuracy")}  # fmt: skip
    header = ["model", "parameters", *(f"{split}{name}" for split in splits for name in shown)]
    lines = ["## The splits side by side", "", "Accuracy on test packets, in percent.", ""]
    lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    rows = []
    for kind in _kinds(best):
        for budget in sorted({budget for _, what, budget in best if what == kind}):
            some = [best.get((split, kind, budget)) for split in splits]
            if all(some):
                first = some[0][0].topology  # type: ignore[index]
                cells = [
                    percent([getattr(point.scores[part], value) for point in points or ()])
                    for points in some
                    for part, value in shown.values()
                ]
                rows.append(f"| {' | '.join([str(first), f'{first.parameters:,}', *cells])} |")
    return [*lines, *rows, ""] if rows else []


def percent(values: list[float]) -> str:
    """Return the mean in percent, with its 95% interval where there are several values."""
    mean, half = interval(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")


def _accuracy(best: Best, split: str, kind: str, dashed: bool = False, label: str = "") -> Line:
    some = [points for (where, what, _), points in best.items() if (where, what) == (split, kind)]
    pairs = [interval([100 * point.test.accuracy for point in points]) for points in some]
    error = [half or 0.0 for _, half in pairs]
    return Line(
        label or kind,
        COLOURS[kind],
        [points[0].topology.parameters for points in some],
        [mean for mean, _ in pairs],
        error if any(error) else (),
        dashed,
    )


def _rates(best: Best, costs: Costs, kind: str, dashed: bool, rows: int = 1, right: bool = False) -> Line:
    pairs = sorted(
        {
            (points[0].topology.parameters, budget)
            for (_, what, budget), points in best.items()
            if what == kind and (kind, budget) in costs
        }
    )
    source = "trainer" if dashed else "when_served"
    values = [getattr(costs[kind, budget], source)[str(rows)] for _, budget in pairs]
    return Line(
        f"{kind}, {_runner(kind, dashed)}", COLOURS[kind], [n for n, _ in pairs], values, (), dashed, right
    )


def _runner(kind: str, trainer: bool) -> str:
    if not trainer:
        return "served"
    return "NumPy" if kind == "svm" else "keras.predict"


def _figures(folder: Path, best: Best, costs: Costs) -> list[str]:
    splits, kinds = _splits(best), _kinds(best)
    lines = ["## Figures", ""]

    def add(figure: Figure) -> None:
        if any(line.x for line in figure.lines):
            lines.extend([f"![{figure.title}]({draw(folder, figure)})", ""])

    by_accuracy: Callable[..., Figure] = lambda name, title, some: Figure(  # noqa: E731
        name, title, "parameters", "accuracy on test packets, %", some
    )
    for split in splits:
        pair = [_accuracy(best, split, kind) for kind in kinds if kind.startswith(("lstm", "mlp"))]
        if pair:
            add(by_accuracy(f"accuracy-{split}", f"Accuracy against parameters, split {split}", pair))
        everyone = [_accuracy(best, split, kind) for kind in kinds]
        add(by_accuracy(f"accuracy-all-{split}", f"All models, split {split}", everyone))
    if len(splits) > 1:
        sides = [
            _accuracy(best, split, kind, dashed=split == splits[0], label=f"{kind}, {split}")
            for kind in kinds
            for split in splits
        ]
        add(by_accuracy("splits", "The splits side by side", sides))
    if costs:
        _speed_figures(add, best, costs)
    return lines


def _speed_figures(add: Callable[[Figure], None], best: Best, costs: Costs) -> None:
    kinds = _kinds(best)
    both = [_rates(best, costs, kind, dashed) for kind in kinds for dashed in (True, False)]
    add(Figure("speed", "Packets/s, one at a time", "parameters", "packets/s", both, log_y=True))
    for kind in kinds:
        if kind != "svm":
            pair = [
                _accuracy(best, split, kind, split == "random", f"accuracy, {split}")
                for split in _splits(best)
            ]
            pair.append(_rates(best, costs, kind, dashed=False, right=True))
            title = f"{kind}: accuracy and speed"
            add(Figure(f"both-{kind}", title, "parameters", "accuracy, %", pair, "packets/s, one at a time"))
    chosen = []
    for kind in kinds:
        points = champion(best, _splits(best)[0], kind)
        if points and (kind, points[0].key.budget) in costs:
            chosen.append((kind, points[0].key.budget))
    add(_batches("batches", "Packets/s against batch size, best of each model", chosen, costs))
    equal = [(kind, _EQUAL_BUDGET) for kind in kinds if (kind, _EQUAL_BUDGET) in costs]
    add(_batches("batches-equal", "Packets/s against batch size, 700k parameters each", equal, costs))


def _batches(name: str, title: str, chosen: list[tuple[str, int]], costs: Costs) -> Figure:
    lines = []
    for kind, budget in chosen:
        for dashed in (True, False):
            speeds = costs[kind, budget].trainer if dashed else costs[kind, budget].when_served
            values = [speeds[str(rows)] for rows in BATCHES]
            lines.append(Line(f"{kind}, {_runner(kind, dashed)}", COLOURS[kind], BATCHES, values, (), dashed))
    return Figure(name, title, "packets in a batch", "packets/s", lines, log_x=True, log_y=True)


def _cost_table(best: Best, costs: Costs) -> list[str]:
    lines = [
        "## Cost",
        "",
        "Full packets/s on this machine: `keras.predict` as the Cape Town study measured it (of the SVM: NumPy), the "
        "exported model in ONNX Runtime on one thread, and what `flowgauge packet-models serve` runs it with: compiled "
        "code for LSTMs, which is faster still where packets are short. Resident: by which loading the exported model "
        f"and asking it {max(BATCHES)} packets at once makes the process grow.",
        "",
        "| model | parameters | predict, 1 | predict, 128 | exported, 1 | exported, 128 | served, 1 | served, 128 "
        "| weights | resident |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in _kinds(best):
        for (what, budget), cost in sorted(costs.items()):
            shown = next((p for (_, k, b), p in best.items() if (k, b) == (what, budget)), None)
            if what == kind and shown:
                by_all = (cost.trainer, cost.exported, cost.when_served)
                rates = [by_one[rows] for by_one in by_all for rows in ("1", "128")]
                cells = [
                    str(shown[0].topology),
                    f"{shown[0].topology.parameters:,}",
                    *(f"{r:,.0f}" for r in rates),
                ]
                sizes = [f"{cost.weight_bytes / 1000:,.0f} kB", f"{cost.resident_bytes / 1e6:,.1f} MB"]
                lines.append(f"| {' | '.join([*cells, *sizes])} |")
    return [*lines, ""]


def _confusions(folder: Path, best: Best, classes: list[str]) -> list[str]:
    lines = ["## Confusion", ""]
    for split in _splits(best):
        points = champion(best, split)
        first = points[0]
        title = f"{first.topology}, split {split}: {_summary(first.test)}"
        name = draw_confusion(folder, f"confusion-{split}", title, classes, first.test.confusion)
        lines += [f"![{title}]({name})", "", *_per_class(classes, first.test)]
    return lines


def _per_class(classes: list[str], scores: Scores) -> list[str]:
    lines = ["| class | test packets | recall | F1 |", "|---|---|---|---|"]
    confusion = scores.confusion
    for number, name in enumerate(classes):
        truly, right = sum(confusion[number]), confusion[number][number]
        answered = sum(row[number] for row in confusion)
        shares = (
            [f"{100 * right / truly:.1f}", f"{200 * right / (truly + answered):.1f}"] if truly else ["–", "–"]
        )
        lines.append(f"| {name} | {truly:,} | {' | '.join(shares)} |")
    return [*lines, ""]


def _summary(scores: Scores) -> str:
    return f"accuracy {scores.accuracy:.1%}"


def _failures(points: list[Point]) -> list[str]:
    failed = [point for point in points if point.failure]
    if not failed:
        return []
    return ["## Trainings that failed", "", *(f"- {point.key}: {point.failure}" for point in failed)]
