"""Several classifiers as one: the mean of their probabilities decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from river.base import Classifier


class Vote(Classifier):  # type: ignore[misc]
    """Soft voting among classifiers that all learn every row.

    River's own ``VotingClassifier`` sums probabilities that are not always normalised, so that a member
    can speak louder than another.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: Mapping[str, float], y: int) -> None:
        """Let every member learn a row."""
        for member in self.members:
            member.learn_one(x, y)

    def predict_proba_one(self, x: Mapping[str, float]) -> dict[int, float]:
        """Return the mean of the members' probabilities; a member without an answer abstains."""
        votes: Counter[int] = Counter()
        for member in self.members:
            said = member.predict_proba_one(x)
            total = sum(said.values())
            if total > 0:
                for c, p in said.items():
                    votes[c] += p / total
        whole = sum(votes.values())
        return {c: p / whole for c, p in votes.items()} if whole else {}
