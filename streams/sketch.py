"""A histogram of fixed size whose bins grow with the value: quantiles to within an eighth of the value.

Four bins to an octave, as in the sketches of Masson, Rim and Lee (DDSketch, VLDB 12(12), 2019), but with bins that
a float's exponent and first two bits give without a logarithm.
"""

from __future__ import annotations

from math import frexp
from typing import Any

import numpy as np

from schemas.compiled import compiled


@compiled
def bin_of(value: float, bins: int) -> int:
    """Return the bin of a value; what is below 1 falls into the first, what is too large into the last."""
    if value < 1.0:
        return 0
    mantissa, exponent = frexp(value)
    return min(4 * (exponent - 1) + int((mantissa - 0.5) * 8), bins - 1)


@compiled
def middle_of(number: int) -> float:
    """Return the value in the middle of a bin."""
    return np.ldexp(1.0 + (number % 4) / 4.0 + 0.125, number // 4)  # type: ignore[no-any-return]


@compiled
def quantile(counts: Any, share: float) -> float:
    """Return the middle of the bin in which the share of the values (0 to 1) is reached; 0 without any."""
    total = 0
    for i in range(len(counts)):
        total += int(counts[i])
    if total == 0:
        return 0.0
    wanted: int = max(1, int(np.ceil(share * total)))
    below = 0
    for i in range(len(counts)):
        below += int(counts[i])
        if below >= wanted:
            return middle_of(i)
    return 0.0
