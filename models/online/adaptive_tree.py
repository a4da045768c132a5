"""River's Hoeffding adaptive tree, cheaper, and whole also where a branch has a second tree beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from river import drift, tree
from river.tree.nodes.hatc_nodes import AdaLeafClassifier
from river.tree.nodes.htc_nodes import LeafNaiveBayesAdaptive
from river.tree.nodes.leaf import HTLeaf
from river.tree.utils import BranchFactory

from models.online.observed import Floats, Observed
from models.online.paths import Paths


class Adwin(drift.ADWIN):  # type: ignore[misc]
    """ADWIN with River's parameters, of which a fresh one costs little.

    A leaf makes one whenever it tries to split, and River finds out each time by inspection what to make it of.
    """

    def __init__(self) -> None:
        super().__init__()

    def clone(self, new_params: dict[str, Any] | None = None, include_attributes: bool = False) -> Adwin:
        """Return a fresh one."""
        return Adwin()


class AdaptiveTree(tree.HoeffdingAdaptiveTreeClassifier):  # type: ignore[misc]
    """The same tree and answers as River's with ``leaf_prediction="mc"``, whose leaves tell their classes' shares.

    For each answer River copies a leaf's counts three times, and it fails where the tree that grows beside a branch
    has branches itself. Rows must have every feature, as a number: so each branch has one way on. Splits are chosen by
    information gain among Gaussians, as River does unless told otherwise.
    """

    _paths: Paths | None = None

    def predict_proba_one(self, x: Mapping[str, float]) -> dict[int, float]:
        """Return the probability of each class that the leaves reached know; empty where there is none."""
        return self.predict_proba_rows(np.array([tuple(x.values())], dtype=np.float64), tuple(x))[0]

    def predict_proba_rows(self, values: Floats, names: tuple[str, ...]) -> list[dict[int, float]]:
        """Return what ``predict_proba_one`` does for each row; rows of the same leaves share one answer.

        Args:
            values: (rows, features).
            names: names of the columns.
        """
        if self._root is None:
            return [{}] * len(values)
        grown = (
            self._n_active_leaves + self._n_inactive_leaves,
            self._n_alternate_trees + self._n_pruned_alternate_trees + self._n_switch_alternate_trees,
        )
        if self._paths is None or self._paths.tree != (id(self._root), *grown, names):
            self._paths = Paths(self._root, (id(self._root), *grown, names))
        known: dict[tuple[Any, ...], dict[int, float]] = {}
        out = []
        for leaves in self._paths.leaves(values):
            answer = known.get(leaves)
            if answer is None:
                answer = known[leaves] = _united(leaves)
            out.append(answer)
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Return what is kept of the tree: its paths are found again."""
        return {name: value for name, value in vars(self).items() if name != "_paths"}

    def _new_leaf(self, initial_stats: dict[int, float] | None = None, parent: Any = None) -> _Leaf:
        return _Leaf(
            stats=initial_stats or {},
            depth=0 if parent is None else parent.depth + 1,
            splitter=self.splitter,
            drift_detector=self.drift_detector.clone(),
            rng=self._rng,
        )


class _CountingLeaf(LeafNaiveBayesAdaptive):  # type: ignore[misc]
    """A leaf that does not try naive Bayes on each row that it learns: nobody asks which would have been better."""

    splitters: Any
    """An ``Observed``; empty before the first row, None where the leaf observes no more."""

    def learn_one(self, x: Mapping[str, float], y: int, *, w: float = 1.0, tree: Any = None) -> None:
        """Learn a row as a leaf of majority classes does."""
        HTLeaf.learn_one(self, x, y, w=w, tree=tree)

    def update_splitters(self, x: Mapping[str, float], y: int, w: float, nominal_attributes: Any) -> None:
        """Observe a row; ``nominal_attributes`` are none here."""
        if not self.splitters:
            self.splitters = Observed(tuple(x))
        self.splitters.update(x, y, w)

    def best_split_suggestions(self, criterion: Any, tree: Any) -> list[BranchFactory]:
        """Return the best threshold of each feature, behind the choice not to split."""
        none = BranchFactory()
        if max(self.stats.values()) / self.total_weight > tree.max_share_to_split or not self.splitters:
            return [none]
        observed: Observed = self.splitters
        entropy = criterion.compute_entropy(self.stats)
        gains, thresholds = observed.best_splits(
            entropy, criterion.min_branch_fraction, self.splitter.n_splits
        )
        found = [
            BranchFactory(gain, name, threshold) if gain > -math.inf else BranchFactory()
            for name, gain, threshold in zip(observed.names, gains.tolist(), thresholds.tolist(), strict=True)
        ]
        # The tree takes the last of the best, so that one alone needs to know what its sides hold.
        best = len(gains) - 1 - int(np.argmax(gains[::-1]))
        if found[best].feature is not None:
            found[best].children_stats = observed.sides(best, float(thresholds[best]))
        return [none, *found]


class _Leaf(AdaLeafClassifier, _CountingLeaf):  # type: ignore[misc]
    """A leaf that copies nothing for an answer."""

    def prediction(self, x: Mapping[str, float], *, tree: Any = None) -> dict[int, float]:
        """Return the classes' shares, by River over the square of the leaf's error where it was ever wrong."""
        return _shares(self.stats, self._mean_error.get() ** 2 or 1.0)


def _united(leaves: tuple[_Leaf, ...]) -> dict[int, float]:
    """Return the answer of the leaves that a row reaches: mostly one, more where trees grow beside branches."""
    if len(leaves) == 1:
        return _shares(leaves[0].stats)
    out: dict[int, float] = {}
    for leaf in leaves:
        for code, share in leaf.prediction({}).items():
            out[code] = out.get(code, 0.0) + share
    return _shares(out)


def _shares(counts: Mapping[int, float], divisor: float = 1.0) -> dict[int, float]:
    """Return counts as shares of their sum, over a divisor; none where they have no sum."""
    total = sum(counts.values()) * divisor
    if not (total > 0 and math.isfinite(total)):
        return {}
    return {code: count / total for code, count in counts.items()}
