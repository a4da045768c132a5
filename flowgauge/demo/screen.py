"""What the demo shows: a live view on a terminal, a line now and then elsewhere, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowgauge.costs_view import SUMMED, cost_table
from flowgauge.demo.account import Check
from flowgauge.demo.tally import LAST_SHOWN, Record, Score, Tally
from flowgauge.messages import endpoints, short

REFRESH_S = 0.25
LINE_EVERY_S = 2.0
WIDE_COLUMNS = 110
OTHER_LINES = 24
STARTING = "starting the workers; a first run compiles for some seconds"


class Progress:
    """How far the demo is; the replay's thread writes the counts, the main thread reads them."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.phase = STARTING
        self.packets = 0
        self.share = 0.0
        self.replay_began: float | None = None
        self.replay_s = 0.0
        self.in_flight_bytes = 0

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the demo began."""
        return time.monotonic() - self.began

    @property
    def running_s(self) -> float:
        """Return for how long packets have been flowing, for rates."""
        if self.replay_began is None:
            return 0.0
        return self.replay_s or time.monotonic() - self.replay_began


def depth_name(representation: str, depth: int) -> str:
    """Return when a prediction was made, in words."""
    if depth == 0:
        return "at the flow's end"
    return f"after packet {depth}" if representation == "early" else f"{representation}, packet {depth}"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return "-" if share is None else f"{share:.1%}"


def status_line(progress: Progress, tally: Tally) -> str:
    """Return the state of things in one line, for where there is no terminal."""
    if progress.replay_began is None:
        return f"{progress.elapsed_s:5.1f} s {progress.phase}"
    seconds = max(progress.running_s, 1e-3)
    return (
        f"{progress.elapsed_s:5.1f} s {progress.phase}: "
        f"{progress.packets} packets ({progress.packets / seconds:.0f}/s), "
        f"{tally.flows_begun} flows, {tally.predictions} predictions ({tally.predictions / seconds:.0f}/s), "
        f"accuracy {percent(tally.overall().accuracy)}"
    )


def prediction_row(tally: Tally, record: Record) -> tuple[Text | str, ...]:
    """Return a prediction as a row: flow, when, class, confidence, truth."""
    truth = tally.truth(record)
    label = record["label"]
    if truth is None:
        mark = Text("…", "dim")
    elif label is None:
        mark = Text(f"is {truth}", "dim")
    else:
        mark = Text("✓", "green") if truth == label else Text(f"✗ {truth}", "red")
    depth = 0 if record["flow_end_reason"] else record["depth"]
    said = Text(label) if label else Text("no prediction yet", "dim")
    sure = percent(record["confidence"]) if label else ""
    # A Text, since brackets around an IPv6 address would be markup.
    return Text(endpoints(record)), depth_name(record["representation"], depth), said, sure, mark


def _table(*columns: str, title: str = "", right: Sequence[str] = ()) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False
    )
    for name in columns:
        table.add_column(
            name, justify="right" if name in right else "left", no_wrap=name != "flow", overflow="ellipsis"
        )
    return table


def accuracy_table(tally: Tally) -> Table:
    """Return accuracy by how much of a flow the model had seen."""
    table = _table(
        "prediction", "right", "wrong", "unsure", "accuracy", "of the last 200",
        title="Accuracy", right=("right", "wrong", "unsure", "accuracy", "of the last 200"),
    )  # fmt: skip
    for (representation, depth), score in sorted(tally.scores.items(), key=_early_first):
        table.add_row(
            depth_name(representation, depth),
            str(score.correct), str(score.wrong), str(score.unsure),
            percent(score.accuracy), percent(score.accuracy_late),
        )  # fmt: skip
    return table


def _early_first(item: tuple[tuple[str, int], Score]) -> tuple[int, str]:
    (representation, depth), _ = item
    return depth or sys.maxsize, representation


def costs_of(tally: Tally) -> Table:
    """Return what each stage cost so far."""
    return cost_table(tally.costs, SUMMED, "Cost, and latency from the probe")


def predictions_table(tally: Tally, rows: int = LAST_SHOWN) -> Table:
    """Return the last predictions, newest first."""
    table = _table("flow", "when", "is", "sure", "truth", title="Predictions", right=("sure",))
    for record in list(reversed(tally.last))[:rows]:
        table.add_row(*prediction_row(tally, record))
    return table


def rates_line(progress: Progress, tally: Tally) -> Text:
    """Return counts and rates so far."""
    seconds = max(progress.running_s, 1e-3)

    def rate(count: int) -> str:
        return f"{count:,} ({short(count / seconds)}/s)"

    parts = [
        ("packets", rate(progress.packets)),
        ("flows", rate(tally.flows_begun)),
        ("predictions", rate(tally.predictions)),
        ("labels", f"{tally.labels:,}"),
    ]
    return Text("   ").join(Text.assemble((f"{name} ", "bold"), value) for name, value in parts)


class Screen:
    """The view of a running demo; a context manager.

    On a terminal it is drawn anew four times a second, elsewhere a line is printed every two seconds. With
    ``quiet`` (for ``--json``) lines go to stderr, so that stdout holds the result alone.
    """

    def __init__(self, progress: Progress, tally: Tally, banner: str, *, quiet: bool) -> None:
        self._progress, self._tally, self._banner = progress, tally, banner
        self._console = Console(stderr=quiet, highlight=False)
        self._live: Live | None = None
        self._next = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self._view(), console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        else:
            self._console.print(self._banner, soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Show the present state, if it is time to."""
        now = time.monotonic()
        changed = self._phase != self._progress.phase
        if now < self._next and not changed:
            return
        self._phase = self._progress.phase
        if self._live is not None:
            self._next = now + REFRESH_S
            self._live.update(self._view(), refresh=True)
        else:
            self._next = now + LINE_EVERY_S
            self._console.print(status_line(self._progress, self._tally), soft_wrap=True)

    def _room(self) -> int:
        """Return how many predictions fit above the other tables; a narrow terminal needs two lines for each."""
        lines = 1 if self._console.width >= WIDE_COLUMNS else 2
        return min(LAST_SHOWN, max(2, (self._console.height - OTHER_LINES) // lines))

    def _view(self) -> RenderableType:
        progress, tally = self._progress, self._tally
        head = Text(f"{progress.phase}, {progress.elapsed_s:.0f} s", "bold cyan")
        bar = f"{'█' * int(progress.share * 30):░<30} {progress.share:.0%}"
        parts: list[RenderableType] = [Text(self._banner, "dim"), Text.assemble(head, "  ", bar)]
        parts.append(rates_line(progress, tally))
        if tally.last:
            parts.append(predictions_table(tally, self._room()))
        if tally.scores:
            parts.append(accuracy_table(tally))
        if tally.costs:
            parts.append(costs_of(tally))
        return Group(*parts)


def show_summary(progress: Progress, tally: Tally, found: Sequence[Check]) -> None:
    """Print the tables of a demo that has ended, and whether everything adds up."""
    console = Console(highlight=False)
    console.print(rates_line(progress, tally), soft_wrap=True)
    for table in (predictions_table(tally), accuracy_table(tally), costs_of(tally)):
        console.print(table)
    overall = tally.overall()
    answered = overall.correct + overall.wrong
    console.print(
        f"{overall.correct} of {answered} answers about labelled flows were right ({percent(overall.accuracy)}), "
        f"from a model that knew nothing at the start; {overall.unsure} times it had no prediction yet.",
        soft_wrap=True,
    )
    if found and all(check.holds for check in found):
        console.print(
            f"Everything adds up: {found[1].found:,} packets, {tally.flows_ended:,} flows, "
            f"{tally.predictions:,} predictions; nothing lost, nothing doubled.",
            soft_wrap=True,
        )


def as_object(progress: Progress, tally: Tally, found: Sequence[Check]) -> dict[str, Any]:
    """Return the outcome for ``--json``."""
    return {
        "duration_s": round(progress.elapsed_s, 3),
        "replay_s": round(progress.running_s, 3),
        "packets": progress.packets,
        "flows": {"begun": tally.flows_begun, "ended": tally.flows_ended},
        "rows": dict(tally.rows),
        "predictions": tally.predictions,
        "answers": tally.answers,
        "labels": tally.labels,
        "classes": dict(tally.classes),
        "accuracy": {
            "overall": tally.overall().accuracy,
            "by_depth": [
                {
                    "representation": representation,
                    "depth": depth or None,
                    "when": depth_name(representation, depth),
                    "right": score.correct,
                    "wrong": score.wrong,
                    "unsure": score.unsure,
                    "accuracy": score.accuracy,
                    "accuracy_late": score.accuracy_late,
                }
                for (representation, depth), score in sorted(tally.scores.items(), key=_early_first)
            ],
        },
        "cost": {
            stage: {
                "unit": cost.unit,
                "items": cost.items_in,
                "cpu_ns_per_item": cost.cpu_ns_per_item,
                "state_bytes": cost.most_state_bytes,
                "output_bytes": cost.output_bytes,
                "latency_p50_ns": cost.latency_p50_ns,
                "latency_p99_ns": cost.latency_p99_ns,
                "dropped": dict(cost.dropped),
            }
            for stage, cost in sorted(tally.costs.items())
        },
        "accounting": [
            {"what": c.what, "wanted": c.wanted, "found": c.found, "holds": c.holds} for c in found
        ],
    }
