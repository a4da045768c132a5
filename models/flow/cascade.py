"""A cascade that is ready to answer: tiers, thresholds, what is unknown. Knows no bus and no time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flow.card import CascadeCard, Thresholds, check_thresholds
from models.flow.errors import CascadeError
from models.flow.tiers import Matrix, Tier
from models.flow.unknown import Scorer


class Answer(NamedTuple):
    """What a tier says of rows; each (rows,)."""

    classes: NDArray[np.intp]
    """Index into the cascade's classes."""
    confidence: NDArray[np.float32]
    """Calibrated: of answers with confidence 0.9, nine in ten are right on flows like those held out."""
    escalate: NDArray[np.bool_]
    """The flow should go on to the next tier; never at the last."""
    unknown: NDArray[np.bool_]
    """If this is the last word on the flow, it is "unknown"."""
    ood: NDArray[np.float32]
    """How unlike the row is to all that the tier learned from, see ``models.flow.unknown``."""


class Cascade:
    """Tiers from fast to slow with thresholds that can be moved while it runs. One thread at a time."""

    def __init__(
        self, card: CascadeCard, tiers: tuple[Tier | None, ...], problems: Mapping[int, str] | None = None
    ) -> None:
        """Take the tiers that a card names; None for one that cannot be used, with the reason in ``problems``."""
        self.card = card
        self.tiers = tiers
        self.problems = dict(problems or {})
        self._scorers = [Scorer(unknown) for unknown in card.unknown]
        self._use(card.thresholds)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes that answers count."""
        return self.card.classes

    @property
    def title(self) -> str:
        """Return ``NAME/VERSION``."""
        return self.card.title

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the share of each tier's flows, but the last's, that the thresholds in use were tuned to let on."""
        return self._shares

    def answer(self, tier: int, rows: Matrix) -> Answer:
        """Return what a tier says.

        Args:
            tier: its number, from 0.
            rows: (rows, columns of the tier).

        Raises:
            CascadeError: the tier could not be loaded.
        """
        model = self.tiers[tier]
        if model is None:
            raise CascadeError(self.problems[tier])
        probabilities = model.probabilities(rows)
        classes = probabilities.argmax(axis=1)
        confidence = self.card.tiers[tier].calibration.confidence(probabilities, classes)
        if tier < len(self._values):
            escalate = confidence < self._values[tier][classes]
        else:
            escalate = np.zeros(len(rows), np.bool_)
        scorer = self._scorers[tier]
        ood = scorer.scores(rows)
        unknown = (confidence < scorer.floor) | (ood > scorer.limit)
        return Answer(classes, confidence, escalate, unknown, ood)

    def ease(self, factor: float) -> None:
        """Escalate ``factor``, 0 to 1, of the share that was tuned, at every tier: under overload less goes on."""
        self.set_shares(tuple(factor * share for share in self.thresholds.shares))

    def set_shares(self, shares: tuple[float, ...]) -> None:
        """Have these shares, 0 to 1, of each tier's flows but the last's escalate, as far as tuning could tell.

        Raises:
            CascadeError: another number of shares.
        """
        ladders = self.thresholds.ladders
        if len(shares) != len(ladders):
            raise CascadeError(f"{self.title}: {len(shares)} shares for {len(ladders)} tiers that escalate")
        self._shares = shares
        self._values = [ladder.at(share) for ladder, share in zip(ladders, shares, strict=True)]

    def use(self, thresholds: Thresholds) -> None:
        """Go over to other thresholds.

        Raises:
            CascadeError: they were tuned with other tiers.
        """
        try:
            check_thresholds(thresholds, self.card.tiers, len(self.classes))
        except ValueError as error:
            raise CascadeError(f"{self.title}: {error}") from None
        self._use(thresholds)

    def _use(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.set_shares(thresholds.shares)
