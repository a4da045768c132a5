"""A small cascade for the benchmark, trained on part of the capture's flows: two forests, at packet 1 and deeper."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgauge.bench.serve.templates import RowsAt
from models.flow.bundle import write_cascade
from models.flow.card import CascadeCard, Ladder, Thresholds, TierCard, tiers_digest
from models.flow.study.export import sklearn_onnx
from models.flow.unknown import fit
from schemas.errors import InputError, SettingsError

NAME, VERSION = "bench", "1"
REPRESENTATION = "cascade"
FEATURES = ("protocol", "packet_sequence", "flag_sequence", "ttl", "tcp_window")
_TREES = {"fast": 20, "slow": 40}
_LEAST_FLOWS = 40
_SHARES = tuple(i / 20 for i in range(21))
_CLOSE = 0.002
"""The share is the smallest with which the training flows' score is so close to the best of all shares."""


def split(label: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the flows to train on and those to send: half of each class.

    Raises:
        InputError: too few.
    """
    rng = np.random.default_rng(seed)
    train: list[int] = []
    for number in np.unique(label):
        mine = rng.permutation(np.flatnonzero(label == number))
        train += mine[: (len(mine) + 1) // 2].tolist()
    rest = np.setdiff1d(np.arange(len(label)), train)
    if len(train) < _LEAST_FLOWS or len(rest) < 1:
        raise InputError(f"{len(label)} labelled flows are too few to train a cascade on a part of them")
    return np.array(sorted(train), np.int64), rest


def train(
    folder: Path,
    classes: Sequence[str],
    label: NDArray[np.int64],
    rows: Mapping[int, RowsAt],
    depths: Sequence[int],
    wait_s: float,
) -> Path:
    """Train, tune the share that escalates on the trees' out-of-bag answers, write the cascade and return its folder.

    Args:
        folder: where.
        classes: names.
        label: (flows,) of the flows to train on.
        rows: their features, by depth.
        depths: of the fast and of the slow tier.
        wait_s: how long flows will be let wait.
    """
    tiers, files, unknown, said = [], {}, [], []
    for name, depth in zip(("fast", "slow"), depths, strict=True):
        at = rows.get(depth)
        if at is None or at.reached.sum() < _LEAST_FLOWS:
            raise InputError(f"too few labelled flows come to packet {depth} to train a tier on them")
        # What packets beyond the depth would say is 0 in every row.
        used = [i for i, column in enumerate(at.columns) if not _is_beyond(column, depth)]
        values, of = at.values[at.reached][:, used], label[at.reached]
        forest, answers = _forest(values, of, len(classes), _TREES[name])
        data = sklearn_onnx(forest, len(used))
        files[f"{name}.onnx"] = data
        tiers.append(
            TierCard(
                name=name,
                kind="random_forest",
                representation=REPRESENTATION,
                depth=depth,
                columns=tuple(at.columns[i] for i in used),
                classes=tuple(int(c) for c in forest.classes_),
                file=f"{name}.onnx",
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
        unknown.append(fit(values, values[:0]))
        whole = np.full((len(label), len(classes)), -1.0, np.float64)
        whole[at.reached] = answers
        said.append(whole)
    ladder, share = _tune(label, *said)
    card = CascadeCard(
        name=NAME,
        version=VERSION,
        classes=tuple(classes),
        tiers=tuple(tiers),
        thresholds=Thresholds(
            method="universal", of=tiers_digest(tuple(tiers)), ladders=(ladder,), shares=(share,)
        ),
        unknown=tuple(unknown),
        wait_s=wait_s,
    )
    return write_cascade(folder, card, files)


def _is_beyond(column: str, depth: int) -> bool:
    number = column.rpartition("_")[2]
    return number.isdigit() and int(number) > depth


def _forest(
    values: NDArray[np.float32], label: NDArray[np.int64], classes: int, trees: int
) -> tuple[Any, NDArray[np.float64]]:
    """Return a forest and its out-of-bag probabilities, (rows, classes)."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise SettingsError("scikit-learn is not installed: pip install 'flowgauge[study]'") from None
    # Out-of-bag answers of few trees are missing for some rows; these count as answers of no confidence.
    forest = RandomForestClassifier(trees, oob_score=True, bootstrap=True, random_state=1, max_depth=14)
    with np.errstate(invalid="ignore", divide="ignore"):
        forest.fit(values, label)
    out = np.zeros((len(label), classes))
    out[:, forest.classes_] = np.nan_to_num(forest.oob_decision_function_)
    return forest, out


def _tune(
    label: NDArray[np.int64], fast: NDArray[np.float64], slow: NDArray[np.float64]
) -> tuple[Ladder, float]:
    """Return thresholds by share, and the share to use; rows of -1: the flow never got to the slow tier."""
    confidence, quick = fast.max(axis=1), fast.argmax(axis=1)
    best = np.where(slow[:, 0] < 0, quick, slow.argmax(axis=1))
    values, scores = [], []
    for share in _SHARES:
        threshold = 1.01 if share == 1 else 0.0 if share == 0 else float(np.quantile(confidence, share))
        values.append(threshold)
        scores.append(float((np.where(confidence < threshold, best, quick) == label).mean()))
    # Rising, as a ladder must, whatever the ties among confidences.
    values = np.maximum.accumulate(values).tolist()
    share = next(s for s, score in zip(_SHARES, scores, strict=True) if score >= max(scores) - _CLOSE)
    ladder = Ladder(shares=_SHARES, values=tuple((value,) * fast.shape[1] for value in values))
    return ladder, share
