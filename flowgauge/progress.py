"""How far long work is: a bar on a terminal, a plain line now and then elsewhere, all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowgauge.messages import short

PLAIN_EVERY_S = 5.0

Update = Callable[[int, float | None], None]
"""Told the packets so far and the share done (None: not known)."""


@contextmanager
def progress(verb: str, *, plain: bool = True) -> Iterator[Update]:
    """Show progress while the block runs; ``plain`` lines only where stderr is no terminal."""
    if sys.stderr.isatty():
        with _bar() as update:
            yield update
    else:
        yield _lines(verb) if plain else _nothing


@contextmanager
def _bar() -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.fields[packets]:>9} packets  {task.fields[rate]:>8}/s")
    columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, packets="0", rate="-")

        def update(packets: int, share: float | None) -> None:
            rate = packets / max(time.monotonic() - began, 1e-3)
            total = None if share is None else 1.0
            bar.update(task, total=total, completed=share or 0.0, packets=short(packets), rate=short(rate))

        yield update


def _lines(verb: str) -> Update:
    last = time.monotonic()

    def update(packets: int, share: float | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            done = "" if share is None else f", {share:.0%} done"
            print(f"flowgauge: {packets} packets {verb}{done}", file=sys.stderr, flush=True)

    return update


def _nothing(packets: int, share: float | None) -> None:
    """Show nothing."""
