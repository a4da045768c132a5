"""The branches of a Hoeffding adaptive tree as arrays, so that many rows find their leaves in one call."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]

_LEAF = -1
"""Stands for the feature of a node that is a leaf; the node's low child is then the leaf's number."""
_NONE = -1


class Paths:
    """The nodes of a tree as it was: splits and trees that begin or end make others."""

    def __init__(self, root: Any, tree: tuple[Any, ...]) -> None:
        """Follow all branches; ``tree`` is what tells whether they are still these, names of columns last."""
        self.tree = tree
        self._leaves: list[Any] = []
        column_of = {name: i for i, name in enumerate(tree[-1])}
        nodes: list[tuple[int, float, int, int, int]] = []
        self._add(root, column_of, nodes)
        self._links: Indices = np.array(
            [(f, low, high, beside) for f, _, low, high, beside in nodes], np.int32
        )
        self._thresholds: Floats = np.array([threshold for _, threshold, *_ in nodes])

    def _add(
        self, node: Any, column_of: dict[Any, int], nodes: list[tuple[int, float, int, int, int]]
    ) -> int:
        """Add a node and all below and beside it; return its number. A tree is not deeper than its settings allow."""
        at = len(nodes)
        if not hasattr(node, "children"):
            nodes.append((_LEAF, 0.0, len(self._leaves), _NONE, _NONE))
            self._leaves.append(node)
            return at
        nodes.append((_LEAF, 0.0, _NONE, _NONE, _NONE))
        low, high = (self._add(child, column_of, nodes) for child in node.children)
        beside = _NONE if node._alternate_tree is None else self._add(node._alternate_tree, column_of, nodes)
        nodes[at] = (column_of[node.feature], node.threshold, low, high, beside)
        return at

    def leaves(self, values: Floats) -> list[tuple[Any, ...]]:
        """Return the leaves that each row, (rows, features), comes to: first those of the trees beside branches."""
        reached, ends = _reach(self._links, self._thresholds, values)
        nodes = [self._leaves[number] for number in reached.tolist()]
        if len(nodes) == len(values):
            return [(leaf,) for leaf in nodes]
        begins = [0, *ends.tolist()]
        return [tuple(nodes[begin:end]) for begin, end in pairwise(begins)]


@njit(cache=True)
def _reach(links: Indices, thresholds: Floats, values: Floats) -> tuple[Indices, NDArray[np.int64]]:
    """Return the leaves of all rows one behind the other, and where each row's end."""
    rows = len(values)
    reached, ends = np.empty(rows, np.int32), np.empty(rows, np.int64)
    waiting = np.empty(len(links), np.int32)
    found = 0
    for i in range(rows):
        waiting[0], left = 0, 1
        while left:
            left -= 1
            at = waiting[left]
            feature, low, high, beside = links[at, 0], links[at, 1], links[at, 2], links[at, 3]
            if feature >= 0:
                waiting[left] = high if values[i, feature] > thresholds[at] else low
                left += 1
                if beside >= 0:
                    waiting[left] = beside
                    left += 1
                continue
            if found == len(reached):
                reached = np.concatenate((reached, np.empty(found + 1, np.int32)))
            reached[found] = low
            found += 1
        ends[i] = found
    return reached[:found], ends


def warm_up() -> None:
    """Compile all of it."""
    _reach(np.array([[_LEAF, 0, _NONE, _NONE]], np.int32), np.zeros(1), np.zeros((1, 1)))
