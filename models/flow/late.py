"""Labels that come after the answer: how right each tier is, and what it brings to ask the next one."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence

from models.flow.table import NOTHING, UNKNOWN
from models.online.scores import ScoreBoard

FINAL = "final"
_MOST_EARLY = 65_536
"""Most labels kept of flows that have no final answer yet."""


class LateLabels:
    """Scores each tier that has answered a flow, and the final answer, when the flow's label comes.

    Every label is counted: ``labels_received`` = ``labels_scored`` + ``labels_waiting`` + ``labels_unknown_flow``
    (never met, or forgotten since) + ``labels_repeated``; of those scored, ``labels_unknown_class`` are of a class
    that the cascade has not: every answer to those is wrong, but ``unknown``.
    """

    def __init__(
        self, tiers: Sequence[str], classes: Sequence[str], window: int, counts: Counter[str]
    ) -> None:
        self.early: OrderedDict[int, str] = OrderedDict()
        """Labels of flows that still wait for their final answer."""
        self.scores = ScoreBoard(window)
        self._tiers, self._classes, self._known = tuple(tiers), tuple(classes), frozenset(classes)
        self._gains: deque[int] = deque(maxlen=window)
        self._counts = counts

    def score(self, label: str, said: Sequence[int]) -> None:
        """Score what was said of a flow: a class by tier, last the final one (see ``models.flow.waiting``)."""
        self._counts["labels_scored"] += 1
        if label not in self._known:
            self._counts["labels_unknown_class"] += 1
        answers = [self._text(number, label) for number in said]
        for name, answer, number in zip((*self._tiers, FINAL), answers, said, strict=True):
            if number != NOTHING or name == FINAL:
                self.scores.add(name, label, answer)
        asked = [answer for answer, number in zip(answers[:-1], said, strict=False) if number != NOTHING]
        if len(asked) > 1:
            gain = (asked[-1] == label) - (asked[0] == label)
            self._gains.append(gain)
            self._counts["escalations_that_helped"] += gain > 0
            self._counts["escalations_that_harmed"] += gain < 0

    def _text(self, number: int, label: str) -> str | None:
        if number == UNKNOWN:
            # To say so of a class that was never learned is right.
            return label if label not in self._known else "unknown"
        return None if number == NOTHING else self._classes[number]

    def keep(self, flow: int, label: str) -> None:
        """Keep the label of a flow that still waits."""
        if len(self.early) >= _MOST_EARLY:
            self.early.popitem(last=False)
            self._counts["labels_waiting"] -= 1
            self._counts["labels_unknown_flow"] += 1
        self.early[flow] = label
        self._counts["labels_waiting"] += 1

    def take(self, flow: int) -> str:
        """Return the label of a flow that has waited, and forget it."""
        self._counts["labels_waiting"] -= 1
        return self.early.pop(flow)

    def gauges(self) -> dict[str, float]:
        """Return the scores over the window: ``accuracy.<tier>`` and more, ``accuracy.final``, ``escalation_gain``.

        The gain is the share of labelled flows that escalated which the deepest tier asked got right and the first
        wrong, less the share of those that it was the other way round.
        """
        out = self.scores.gauges(0)
        if self._gains:
            out["escalation_gain"] = sum(self._gains) / len(self._gains)
        return out
