"""How unlike a row is to all that a tier learned from.

The score is the mean over the columns of the squared distance from the centre in units of the scale, each at most
``MOST``, under a signed logarithm: octets and gaps span ten powers of ten. It looks at columns one by one, so it costs
about as much as copying the row, and sees what has no likeness in any column better than what is an odd combination.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.flow.card import Unknown
from schemas.compiled import compiled

Columns = NDArray[np.float32]

MOST = 100.0
QUANTILE = 0.999
"""Share of held-out rows that the limit lets through."""
_LEAST_SCALE = 0.05
"""Of a column that was as good as constant: what differs then scores high, but no row by rounding."""


def signed_log(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sign(x) · log(1 + |x|)."""
    return np.copysign(np.log1p(np.abs(rows)), rows)


def fit(rows: NDArray[np.float32], held_out: NDArray[np.float32], confidence_floor: float = 0.0) -> Unknown:
    """Return what tells rows unlike ``rows``; the limit is such that nearly all of ``held_out`` pass.

    Args:
        rows: (rows, columns) that the tier learned from.
        held_out: (rows, columns) of the same classes that it did not.
        confidence_floor: answers with less are unknown too.
    """
    values = signed_log(rows)
    found = Unknown(
        confidence_floor=confidence_floor,
        centre=tuple(values.mean(axis=0).astype(float).tolist()),
        scale=tuple(np.maximum(values.std(axis=0), _LEAST_SCALE).astype(float).tolist()),
    )
    scores = Scorer(found).scores(held_out if len(held_out) else rows)
    # A little above, so that the highest of few rows is not unknown itself.
    limit = float(np.quantile(scores, QUANTILE)) * 1.05 + 1e-6
    return found.model_copy(update={"limit": limit})


class Scorer:
    """Scores rows against one ``Unknown``."""

    def __init__(self, unknown: Unknown) -> None:
        """Take what to compare with."""
        self._centre = np.array(unknown.centre, np.float32)
        self._per_scale = np.array([1 / scale for scale in unknown.scale], np.float32)
        self.limit = np.float32(unknown.limit)
        self.floor = np.float32(unknown.confidence_floor)

    def scores(self, rows: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the score of each row, (rows,): about 1 for what is usual, up to ``MOST``; 0 if none are judged."""
        out = np.zeros(len(rows), np.float32)
        if len(self._centre):
            _score_all(np.ascontiguousarray(rows, np.float32), self._centre, self._per_scale, out)
        return out


@compiled
def _score_all(rows: Columns, centre: Columns, per_scale: Columns, out: Columns) -> None:
    for i in range(len(rows)):
        total = np.float32(0)
        for j in range(len(centre)):
            given = rows[i, j]
            # What is no number is 0 for the tier, too.
            value = (
                np.float32(0)
                if np.isnan(given)
                else np.float32(math.copysign(np.log1p(np.abs(given)), given))
            )
            distance = (value - centre[j]) * per_scale[j]
            total += min(distance * distance, np.float32(MOST))
        out[i] = total / np.float32(len(centre))
