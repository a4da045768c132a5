"""The quality of a set of features: a random forest, cross-validated such that no group is on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.explore.rows import Rows
from models.explore.task import Group, Metric, Task
from models.explore.truth import Texts
from schemas.errors import InputError

TREES = 60
LEAST_GROUPS = 4
"""Groups of each class from which on ``auto`` takes a kind of group; captures: 2."""


@dataclass(frozen=True)
class Judge:
    """Scores sets of features on labelled rows."""

    rows: Rows
    labels: NDArray[np.generic]
    """(rows,) class numbers, or values where the metric is rmse."""
    classes: tuple[str, ...]
    groups: NDArray[np.int64]
    group_by: str
    folds: int
    metric: Metric

    def score(self, candidates: list[int]) -> float:
        """Return the quality with some candidates: of the predictions of all folds together."""
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
        from sklearn.metrics import f1_score

        values = self.rows.columns_of(candidates)
        predicted = np.zeros_like(self.labels)
        kind = RandomForestRegressor if self.metric == "rmse" else RandomForestClassifier
        for train, test in self._splits(values):
            model = kind(TREES, random_state=0, min_samples_leaf=2, n_jobs=-1)
            predicted[test] = model.fit(values[train], self.labels[train]).predict(values[test])
        if self.metric == "rmse":
            return float(np.sqrt(np.mean((predicted - self.labels) ** 2)))  # type: ignore[operator]
        average = self.metric.removeprefix("f1_")
        return float(f1_score(self.labels, predicted, average=average, zero_division=0))

    def _splits(self, values: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        if self.metric == "rmse":
            return GroupKFold(self.folds).split(values, self.labels, self.groups)
        folds = StratifiedGroupKFold(self.folds, shuffle=True, random_state=0)
        return folds.split(values, self.labels, self.groups)


def make_judge(task: Task, rows: Rows, labels: Texts, group_name: str = "") -> Judge:
    """Return the judge of labelled rows; raises InputError where too few are labelled.

    ``group_name``: rows are grouped by ``Rows.capture``, which is told by this name.
    """
    if task.merge:
        labels = np.array([task.merge.get(str(label), label) for label in labels.tolist()], object)
    known = np.flatnonzero(labels != "")
    if len(known) > task.most_rows:
        known = np.sort(np.random.default_rng(0).choice(known, task.most_rows, replace=False))
    rows, texts = rows.choose(known), labels[known].astype(str)
    if task.metric == "rmse":
        try:
            numbers: NDArray[np.generic] = texts.astype(np.float64)
        except ValueError as error:
            raise InputError(f"labels that are no numbers, which rmse needs: {error}") from None
        classes, of_class = (), np.zeros(len(texts), np.int64)
    else:
        names, numbers = np.unique(texts, return_inverse=True)
        classes, of_class = tuple(names.tolist()), numbers.astype(np.int64)
    if not len(known) or (task.metric != "rmse" and len(classes) < 2):
        told = f"only {classes[0]}" if classes else "none"
        raise InputError(f"{len(known):,} rows have a label, {told}: nothing to tell apart")
    group_by, groups = _groups(rows, of_class, "capture" if group_name else task.group_by)
    group_by = group_name or group_by
    folds = min(task.folds, len(np.unique(groups)))
    if folds < 2:
        raise InputError(
            f"all labelled rows are of one {group_by}: nothing to test on that was not trained on"
        )
    return Judge(rows, numbers, classes, groups, group_by, folds, task.metric)


def _groups(rows: Rows, of_class: NDArray[np.int64], wanted: Group) -> tuple[str, NDArray[np.int64]]:
    by: dict[str, NDArray[np.int64]] = {
        "capture": rows.capture,
        "host": np.unique(rows.source, axis=0, return_inverse=True)[1].reshape(-1),
        "flow": np.unique(rows.flow_id, return_inverse=True)[1],
    }
    for name, groups in by.items():
        least = 2 if name == "capture" else LEAST_GROUPS
        enough = min(len(np.unique(groups[of_class == c])) for c in np.unique(of_class)) >= least
        if wanted == name or (wanted == "auto" and (enough or name == "flow")):
            return name, groups
    raise ValueError(wanted)
