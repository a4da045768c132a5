"""Who trains and who tests: rows into train, validation and test, by packet or by groups that stay together."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.packet.dataset import SHARES, TEST, TRAIN, UNUSED, VALIDATION

_PARTS = len(SHARES)
_WANTED = np.array(SHARES)
_NOTHING = 1e-9
"""Share that an empty part is taken to have: it costs more than any shares that are off."""
_MOST_TRIES = 3000
_FEW_TRIES = 20
_GROUPS_SETTLED = 500_000
"""In all tries together; more than so many groups are dealt out once, and none is moved then."""
_KICKED = 3
_ROUNDS = 20
_SAME = 1e-9
_NOWHERE = -1


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

    Near is meant by ratio: what a class's largest group leaves is shared by the other parts as their shares are.
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
    parts = _assign(counts[:, splittable], rng)
    out = parts[of_row]
    out[~splittable[kind_of_row]] = UNUSED
    return out


def smallest_part(sizes: NDArray[np.int64]) -> int:
    """Return how many packets the smallest of train, validation and test gets of a class with groups of these sizes.

    So many where the class stands alone; where groups hold packets of several classes it may get fewer.
    """
    parts = _assign(sizes[:, None].astype(np.float64), np.random.default_rng(0), _FEW_TRIES)
    return int(np.bincount(parts, weights=sizes, minlength=_PARTS).min())


def _assign(
    counts: NDArray[np.float64], rng: np.random.Generator, tries: int = _MOST_TRIES
) -> NDArray[np.uint8]:
    """Return the part of each group; ``counts`` is (groups, classes).

    The largest groups choose first, each the part where it is needed most; then groups are moved while that helps.
    That ends where no single move helps: then a few are put elsewhere by chance, and it is tried from there.
    """
    shares = counts / np.maximum(1.0, counts.sum(axis=0))
    groups = len(shares)
    if not groups:
        return np.empty(0, np.uint8)
    order = rng.permutation(groups)
    order = order[np.argsort(-shares[order].max(axis=1, initial=0), kind="stable")]
    tries = min(tries, _GROUPS_SETTLED // max(1, groups))
    parts = np.full(groups, _NOWHERE, np.int64)
    cost = _settle(shares, order, _WANTED, parts, _ROUNDS if tries else 0)
    for _ in range(tries - 1):
        again = parts.copy()
        again[rng.integers(groups, size=_KICKED)] = rng.integers(_PARTS, size=_KICKED)
        found = _settle(shares, order, _WANTED, again, _ROUNDS)
        if found < cost - _SAME:
            cost, parts = found, again
    return parts.astype(np.uint8)


@njit(cache=True, nogil=True)
def _cost(had: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Return the sum over classes of the divergence (Kullback-Leibler) of the shares wanted from those had."""
    cost = 0.0
    for part in range(had.shape[0]):
        for kind in range(had.shape[1]):
            cost += wanted[part] * np.log(wanted[part] / max(had[part, kind], _NOTHING))
    return cost


@njit(cache=True, nogil=True)
def _gain(had: NDArray[np.float64], share: NDArray[np.float64], sign: float) -> float:
    """Return by how much the logarithms of a part's shares grow in all if a group comes (1) or goes (-1)."""
    gain = 0.0
    for kind in range(len(share)):
        if share[kind] > 0:
            now = max(had[kind], _NOTHING)
            gain += np.log(max(had[kind] + sign * share[kind], _NOTHING) / now)
    return gain


@njit(cache=True, nogil=True)
def _settle(
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    wanted: NDArray[np.float64],
    parts: NDArray[np.int64],
    rounds: int,
) -> float:
    """Deal out the groups that are _NOWHERE, in this order, then move each to where it is needed more.

    ``parts`` is changed; returns the cost.
    """
    had = np.zeros((len(wanted), shares.shape[1]))
    for group in range(len(parts)):
        if parts[group] >= 0:
            had[parts[group]] += shares[group]
    for _ in range(rounds + 1):
        moved = False
        for group in order:
            here, share = parts[group], shares[group]
            lost = wanted[here] * _gain(had[here], share, -1.0) if here >= 0 else 0.0
            best, to = _SAME if here >= 0 else -np.inf, here
            for there in range(len(wanted)):
                if there != here:
                    gain = lost + wanted[there] * _gain(had[there], share, 1.0)
                    if gain > best:
                        best, to = gain, there
            if to != here:
                if here >= 0:
                    had[here] -= share
                had[to] += share
                parts[group] = to
                moved = True
        if not moved:
            break
    return _cost(had, wanted)
