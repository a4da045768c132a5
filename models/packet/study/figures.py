"""The figures of a study's report, as SVG; the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.packet.study.points import write_whole

COLOURS = {
    "svm": "#8c564b",
    "mlp": "#1f77b4",
    "mlp-embedding": "#17becf",
    "lstm": "#d62728",
    "lstm-embedding": "#ff7f0e",
    "cnn": "#2ca02c",
    "cnn-embedding": "#bcbd22",
    "transformer": "#9467bd",
    "transformer-embedding": "#e377c2",
}
_SIZE = (7.0, 4.2)


@dataclass(frozen=True)
class Line:
    """One line of a figure."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()
    """Half the width of each value's interval."""
    dashed: bool = False
    marks: bool = True
    """Whether each value has a mark; a distribution has too many."""
    right: bool = False
    """Whether it belongs to the axis on the right."""


@dataclass(frozen=True)
class Figure:
    """A figure of lines."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: list[Line] = field(default_factory=list)
    right_label: str = ""
    log_x: bool = False
    log_y: bool = False


def draw(folder: Path, figure: Figure) -> str:
    """Draw a figure into ``folder`` and return the file's name."""
    plot, axes = _canvas()
    right = axes.twinx() if any(line.right for line in figure.lines) else None
    for line in figure.lines:
        place = right if right is not None and line.right else axes
        style = {"color": line.colour, "linestyle": "--" if line.dashed else "-", "label": line.label}
        # A line of one point has no dashes to tell it by.
        style["markerfacecolor"] = "white" if line.dashed else line.colour
        style["marker"] = "o" if line.marks else "none"
        place.errorbar(line.x, line.y, yerr=line.error or None, markersize=4, capsize=2, **style)
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    if figure.log_x:
        axes.set_xscale("log")
    for place in filter(None, (axes, right)):
        if figure.log_y:
            place.set_yscale("log")
    if right is not None:
        right.set_ylabel(figure.right_label)
    axes.grid(alpha=0.3)
    handles = [handle for place in (axes, right) if place for handle in place.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, fontsize=8)
    return _save(folder, figure.name, plot)


def draw_confusion(
    folder: Path, name: str, title: str, classes: Sequence[str], confusion: list[list[int]]
) -> str:
    """Draw a confusion matrix, each row in percent of its class, and return the file's name."""
    plot, axes = _canvas((0.55 * len(classes) + 2.5, 0.5 * len(classes) + 1.8))
    shares = [[100 * n / (sum(row) or 1) for n in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share >= 0.5:
                colour = "white" if share > 55 else "black"
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set(title=title, xlabel="answer", ylabel="true class (row: 100%)")
    return _save(folder, name, plot)


def _canvas(size: tuple[float, float] = _SIZE) -> tuple[Any, Any]:
    # Not pyplot: it would choose a window system.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=size, layout="constrained")
    FigureCanvasSVG(plot)
    return plot, plot.add_subplot()


def _save(folder: Path, name: str, plot: Any) -> str:
    import matplotlib

    data = io.BytesIO()
    # Neither the date nor random ids: a report made again is the same file.
    with matplotlib.rc_context({"svg.hashsalt": "flowgauge", "svg.fonttype": "none"}):
        plot.savefig(data, format="svg", metadata={"Date": None})
    write_whole(folder / f"{name}.svg", data.getvalue())
    return f"{name}.svg"
