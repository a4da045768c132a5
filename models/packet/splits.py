"""Who trains and who tests: rows into train, validation and test, by packet or by groups that stay together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.packet.dataset import SHARES, TEST, TRAIN, UNUSED, VALIDATION

_PARTS = len(SHARES)
_MOST_GROUPS_TO_IMPROVE = 2000
_ROUNDS = 20
_MISSING_COST = 10.0
"""What a class costs that has packets elsewhere but none in a part: more than any shares that are off."""


def split_rows(classes: NDArray[np.int32], seed: int) -> NDArray[np.uint8]:
    """Split each class's rows at random, as SHARES say; every part of a class with three rows has one."""
    rng = np.random.default_rng([seed, 1])
    out = np.full(len(classes), UNUSED, np.uint8)
    for number in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == number))
        parts = _sizes(len(rows))
        out[rows] = np.repeat(np.array([TRAIN, VALIDATION, TEST], np.uint8), parts)
    return out


def _sizes(rows: int) -> list[int]:
    """Return how many of so many rows go into each part."""
    if rows < _PARTS:
        return [rows - min(1, rows // 2), 0, min(1, rows // 2)]
    test, validation = max(1, round(rows * SHARES[TEST])), max(1, round(rows * SHARES[VALIDATION]))
    return [rows - test - validation, validation, test]


def split_groups(
    classes: NDArray[np.int32], groups: NDArray[np.int64], seed: int, salt: int
) -> NDArray[np.uint8]:
    """Split so that all rows of a group are in one part, with shares of each class as near to SHARES as it gets.

    A class whose rows are all of one group cannot be both learned and tested: its rows are UNUSED.

    Args:
        classes: (rows,) class numbers.
        groups: (rows,) numbers of the groups.
        seed: decides between equals.
        salt: tells one split of a data set from another.
    """
    rng = np.random.default_rng([seed, salt])
    names, of_row = np.unique(groups, return_inverse=True)
    kinds, kind_of_row = np.unique(classes, return_inverse=True)
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (of_row, kind_of_row), 1.0)
    splittable = np.count_nonzero(counts, axis=0) > 1
    shares = counts[:, splittable] / np.maximum(1.0, counts[:, splittable].sum(axis=0))
    parts = _assign(shares, rng)
    out = parts[of_row]
    out[~splittable[kind_of_row]] = UNUSED
    return out


def _assign(shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the part of each group; ``shares`` is (groups, classes), each class's share of its rows in a group.

    The largest groups choose first, each the part where it is needed most; then groups are moved while that helps.
    """
    order = rng.permutation(len(shares))
    order = order[np.argsort(-shares[order].max(axis=1, initial=0), kind="stable")]
    parts = np.zeros(len(shares), np.uint8)
    had = np.zeros((_PARTS, shares.shape[1]))
    wanted = np.array(SHARES)[:, None]
    for group in order:
        # Adding s to a part changes the sum of squared differences by s * (s + 2 * (had - wanted)).
        s = shares[group]
        part = int(np.argmin((s * (s + 2 * (had - wanted))).sum(axis=1)))
        parts[group] = part
        had[part] += s
    if len(shares) <= _MOST_GROUPS_TO_IMPROVE:
        _improve(shares, parts, had, order)
    return parts


def _cost(had: NDArray[np.float64], can: NDArray[np.bool_]) -> float:
    squares = float(((had - np.array(SHARES)[:, None]) ** 2).sum())
    return squares + _MISSING_COST * float(((had <= 1e-12) & can).sum())


def _improve(
    shares: NDArray[np.float64],
    parts: NDArray[np.uint8],
    had: NDArray[np.float64],
    order: NDArray[np.int64],
) -> None:
    """Move single groups to other parts as long as that lowers the cost."""
    groups_of_class = np.count_nonzero(shares, axis=0)
    # Two groups can fill train and test, not validation too.
    can = np.stack([groups_of_class > 1, groups_of_class > 2, groups_of_class > 1])
    best = _cost(had, can)
    for _ in range(_ROUNDS):
        moved = False
        for group in order:
            here = int(parts[group])
            for there in range(_PARTS):
                if there == here:
                    continue
                had[here] -= shares[group]
                had[there] += shares[group]
                cost = _cost(had, can)
                if cost < best - 1e-9:
                    best, parts[group], here, moved = cost, there, there, True
                else:
                    had[here] += shares[group]
                    had[there] -= shares[group]
        if not moved:
            return
