"""The Pareto front of choices, and how it is told: a table, JSON, a plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from models.explore.costs import Costs
from models.explore.search import Choice

_HEADS = ("quality", "when", "CPU ns/packet", "state B/flow", "storage GB/h", "decision s", "features")


def pareto(choices: Sequence[Choice], smaller_is_better: bool) -> list[Choice]:
    """Return the choices that no other one beats in one thing and equals in all, the best quality first."""
    sign = 1.0 if smaller_is_better else -1.0
    points = [(sign * c.quality, *astuple(c.costs)) for c in choices]

    def beaten(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(o <= p for o, p in zip(other, point, strict=True)) for other in points
        )

    front = [choice for choice, point in zip(choices, points, strict=True) if not beaten(point)]
    return sorted(front, key=lambda c: (sign * c.quality, c.costs.cpu_ns))


def told(choice: Choice, features: Sequence[str], measured: Costs | None = None) -> dict[str, Any]:
    """Return a choice as JSON has it; ``measured`` are the costs of its own kernel."""
    return {
        "quality": choice.quality,
        "when": str(choice.moment),
        "features": [features[i] for i in choice.candidates],
        "costs": asdict(choice.costs),
        "measured": asdict(measured) if measured else None,
    }


def _cells(point: Mapping[str, Any]) -> list[str]:
    costs = point["measured"] or point["costs"]
    cpu = f"{costs['cpu_ns']:.0f}" + ("" if point["measured"] else " (sum)")
    return [
        f"{point['quality']:.3f}",
        point["when"],
        cpu,
        f"{costs['state_bytes']:.0f}",
        f"{costs['storage_gb']:.1f}",
        f"{costs['decision_s']:.2g}",
        ", ".join(point["features"]) or "(counts of packets and octets alone)",
    ]


def markdown(points: Sequence[Mapping[str, Any]], first: str = "quality") -> str:
    """Return points as a table."""
    heads = (first, *_HEADS[1:])
    lines = [f"| {' | '.join(heads)} |", "|---:|---|---:|---:|---:|---:|---|"]
    lines += [f"| {' | '.join(_cells(point))} |" for point in points]
    return "\n".join(lines) + "\n"


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``front.json``, ``front.csv`` and ``front.md``."""
    (folder / "front.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with (folder / "front.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("quality", "when", *Costs.__annotations__, "measured", "features", "settings"))
        for point in report["front"]:
            costs = point["measured"] or point["costs"]
            measured = int(point["measured"] is not None)
            writer.writerow(
                (
                    point["quality"],
                    point["when"],
                    *costs.values(),
                    measured,
                    " ".join(point["features"]),
                    point["settings"],
                )
            )
    (folder / "front.md").write_text(page(report), encoding="utf-8")


def page(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    judged = report["judged"]
    lines = [
        f"# {report['task']}: {report['metric']} against cost\n",
        f"{judged['rows']:,} rows of {judged['groups']} {judged['group_by']}s"
        f"{', classes ' + ', '.join(judged['classes']) if judged['classes'] else ''}; {report['trials']} trials; "
        f"{judged['folds']} folds, no {judged['group_by']} on both sides. Costs contain the kernel without features; "
        f"storage at {report['link_gbps']:g} Gb/s. CPU marked (sum) is added up from prices, else measured.\n",
        "## Front\n",
        markdown(report["front"], report["metric"]),
    ]
    if report["levels"]:
        lines += ["## Levels\n", "All candidates of a level, alone and together, where they came out best.\n"]
        lines += [
            markdown([{**p, "features": [name]} for name, p in report["levels"].items()], report["metric"])
        ]
    return "\n".join(lines)


def draw(folder: Path, report: Mapping[str, Any]) -> bool:
    """Draw ``front.svg`` and ``front.png``: quality against each cost; False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = {
        "cpu_ns": "CPU, ns a packet",
        "state_bytes": "state, bytes a flow",
        "storage_gb": "storage, GB/h",
        "decision_s": "time to decision, s",
    }
    for axes, (cost, label) in zip(figure.subplots(1, 4, sharey=True), names.items(), strict=True):
        tried = report["tried"]
        axes.scatter(
            [p["costs"][cost] for p in tried],
            [p["quality"] for p in tried],
            s=10,
            color="#c6dbef",
            label="tried",
        )
        front = report["front"]
        at = [(p["measured"] or p["costs"])[cost] for p in front]
        axes.scatter(at, [p["quality"] for p in front], s=18, color="#08519c", label="front")
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if cost == "cpu_ns":
            axes.set(ylabel=report["metric"])
            axes.legend()
    for ending in ("svg", "png"):
        figure.savefig(folder / f"front.{ending}", dpi=110)
    return True
