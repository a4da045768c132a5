"""Rules that matched nothing while a worker ran: counted on ``telemetry.cost``, named when it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from streams.services.rules import RuleBook

Gauge = Callable[[str, float | None], None]


class LiveRules:
    """How often each rule matched, by probe: in the partitions at hand and in those let go of."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._hits: dict[str, NDArray[np.int64]] = {}

    def let_go(self, books: Iterable[tuple[str, RuleBook]]) -> None:
        """Keep what the books (probe, book) of partitions that are given up counted."""
        self._hits = self._all(books)

    def tell(self, books: Iterable[tuple[str, RuleBook]], gauge: Gauge) -> None:
        """Set for each probe how many of its rules matched nothing so far."""
        for probe, hits in self._all(books).items():
            gauge(f"rules_without_match_{probe}", int(np.count_nonzero(hits[1:] == 0)))

    def without_match(self) -> list[str]:
        """Return the rules that matched nothing at any probe, of partitions let go of."""
        matched = {
            text
            for probe, hits in self._hits.items()
            for text, count in zip(self._texts[probe], hits.tolist(), strict=True)
            if count
        }
        known = dict.fromkeys(text for probe in self._hits for text in self._texts[probe][1:])
        return [text for text in known if text not in matched]

    def _all(self, books: Iterable[tuple[str, RuleBook]]) -> dict[str, NDArray[np.int64]]:
        total = {probe: hits.copy() for probe, hits in self._hits.items()}
        for probe, book in books:
            self._texts.setdefault(probe, book.texts)
            total[probe] = total.get(probe, 0) + book.rules.hits
        return total
