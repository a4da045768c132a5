"""Which flows train, which tune and which test."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from models.packet.dataset import TEST, TRAIN, UNUSED, VALIDATION
from models.packet.splits import split_groups, split_rows
from schemas.errors import SettingsError

SPLITS = ("group", "flow")
"""No group on two sides; flows at random."""
_SALT = 7


class Part(IntEnum):
    """What a flow is used for."""

    TRAIN = TRAIN
    """Models learn from it."""
    TUNE = VALIDATION
    """Models, calibration and thresholds are chosen on it."""
    TEST = TEST
    """Nothing is chosen on it."""
    UNUSED = UNUSED


def parts_of(by: str, label: NDArray[np.int32], group: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """Return the part of each flow, (flows,).

    Args:
        by: one of ``SPLITS``.
        label: (flows,) class numbers.
        group: (flows,) what stays together.
        seed: another gives another split.

    Raises:
        SettingsError: there is no such split.
    """
    if by == "flow":
        return split_rows(label, seed)
    if by == "group":
        return split_groups(label, group, seed, _SALT)
    raise SettingsError(f"split {by}: there is {', '.join(SPLITS)}")


def folds_of(
    label: NDArray[np.int32], group: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """Return a fold for each row, (rows,), each class spread over all; groups stay whole where they are given.

    Where a class has fewer groups than folds, its groups are dealt out as far as they go.
    """
    rng = np.random.default_rng([seed, _SALT])
    unit = np.arange(len(label)) if group is None else group
    out = np.zeros(len(label), np.int64)
    sizes = np.zeros(folds)
    for name in rng.permutation(np.unique(unit)):
        mine = unit == name
        fold = int(sizes.argmin())
        out[mine], sizes[fold] = fold, sizes[fold] + mine.sum()
    return out
