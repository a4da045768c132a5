"""Labels of the corpus: those of the shipped capture, for a share of the flows of every pass."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from flowgauge.bench.corpus import Corpus

ONE_IN = 20
"""Of how many flows one is labelled."""
_SUFFIX = ".labels.csv"


@contextmanager
def make_labels(corpus: Corpus) -> Iterator[Path | None]:
    """Write a labels file for the corpus; give None where its capture has none beside it, ``NAME.labels.csv``.

    Another one of ``ONE_IN`` flows is labelled in each pass.
    """
    known = _beside(corpus)
    if known is None:
        yield None
        return
    with known.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with TemporaryDirectory(prefix="flowgauge-bench-") as directory:
        path = Path(directory) / f"corpus{_SUFFIX}"
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, fieldnames=list(rows[0]))
            out.writeheader()
            for number in range(corpus.passes):
                out.writerows(_moved(row, number * corpus.span_s) for row in rows[number % ONE_IN :: ONE_IN])
        yield path


def _beside(corpus: Corpus) -> Path | None:
    # Times of several captures or link types are moved differently; the labels are of one.
    if len(corpus.captures) != 1 or len(corpus.paths) != 1:
        return None
    capture = Path(corpus.captures[0])
    path = capture.with_name(capture.name.split(".")[0] + _SUFFIX)
    return path if path.is_file() else None


def _moved(row: dict[str, str], seconds: int) -> dict[str, str]:
    """Return a row of a labels file whose flow is so much later."""
    return {**row, **{name: str(int(row[name]) + seconds * 1_000_000_000) for name in ("start_ns", "end_ns")}}
