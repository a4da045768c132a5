"""The trainings of a study on disk: a JSON file each, the model and what it answered beside it."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.card import TierCard
from models.flow.octets import REPRESENTATION
from models.flow.study.data import FlowData
from models.flow.study.packet import KIND, take_model
from models.flow.study.splits import Part
from models.flow.study.train import Settings, TooFew, Trained, train
from models.flow.study.watch import Diverged, NoBetterThanMajority
from models.flow.tiers import MOST_MODEL_BYTES, Tier, open_tier
from models.packet.study.points import read_json, write_json, write_whole
from schemas.errors import InputError

VERSION = 1
BATCHES = (1, 64, 256, 1024)
_COST_SPELL_S = 0.03
_TRIES = 3


@dataclass(frozen=True, order=True)
class Key:
    """Which training it is."""

    seed: int
    """Of the split, and of the training."""
    representation: str
    depth: int
    kind: str

    @property
    def model(self) -> tuple[str, int, str]:
        """Return what is the same in every split."""
        return self.representation, self.depth, self.kind

    @property
    def name(self) -> str:
        """Return the name of its files, without the ending."""
        return f"{self.seed}-{tier_name(self.model)}"

    def __str__(self) -> str:
        """Return it in words."""
        return f"{tier_name(self.model)}, split {self.seed}"


def tier_name(model: tuple[str, int, str]) -> str:
    """Return the name of a model as a tier: ``lightgbm@5``, with the representation where that is not the usual one."""
    representation, depth, kind = model
    return f"{kind}@{depth}" + ("" if representation in ("early", REPRESENTATION) else f".{representation}")


@dataclass(frozen=True)
class Point:
    """A finished training, or why there is no model."""

    key: Key
    columns: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    file: str = ""
    sha256: str = ""
    rows: int = 0
    train_loss: float = 0.0
    tune_loss: float = 0.0
    note: str = ""
    model: str = ""
    """``NAME/VERSION`` of a packet model that was taken as it is."""
    row_us: dict[str, float] = field(default_factory=dict)
    """Time per row on one thread, in us, by rows at once."""
    failure: str = ""

    def tier(self, **more: Any) -> TierCard:
        """Return it as a tier's card."""
        told = {
            "name": tier_name(self.key.model),
            "kind": self.key.kind,
            "representation": self.key.representation,
            "depth": self.key.depth,
            "columns": self.columns,
            "classes": self.classes,
            "file": self.file.split("-", 1)[1],
            "sha256": self.sha256,
            "cost": {"row_us": self.row_us},
        }
        return TierCard.model_validate({**told, **more})


def make_point(
    folder: Path,
    data: FlowData,
    part: NDArray[np.uint8],
    key: Key,
    settings: Settings,
    stop: Callable[[], bool],
    packet_model: Path | None = None,
) -> Point:
    """Return a point: the one kept in ``folder``, else trained and kept there; a packet model is taken as it is.

    Raises:
        Interrupted: ``stop`` ended it.
    """
    path = folder / f"{key.name}.json"
    if path.exists():
        return read_point(path)
    try:
        if packet_model is not None and key.kind == KIND:
            trained = take_model(packet_model, data, part, key.depth)
        else:
            trained = train(data, part, key.kind, key.representation, key.depth, key.seed, settings, stop)
    except (TooFew, Diverged, NoBetterThanMajority) as error:
        point = Point(key, failure=str(error))
    else:
        point = _keep(folder, data, part, key, trained)
    write_json(path, {"version": VERSION, **asdict(point)})
    return point


def _keep(folder: Path, data: FlowData, part: NDArray[np.uint8], key: Key, trained: Trained) -> Point:
    point = Point(
        key,
        trained.columns,
        trained.classes,
        f"{key.name}.{trained.ending}",
        hashlib.sha256(trained.data).hexdigest(),
        trained.rows,
        trained.train_loss,
        trained.tune_loss,
        trained.note,
        trained.model,
    )
    write_whole(folder / point.file, trained.data)
    tier = open_point(folder, point, len(data.classes))
    rows = data.rows[key.representation, key.depth]
    asked = (part == Part.TUNE) | (part == Part.TEST)
    at = {name: i for i, name in enumerate(rows.columns)}
    values = np.ascontiguousarray(rows.take(asked)[:, [at[name] for name in trained.columns]])
    packed = io.BytesIO()
    np.savez(packed, flows=rows.flows[asked[rows.flows]], probabilities=tier.probabilities(values))
    write_whole(folder / f"{key.name}.npz", packed.getvalue())
    return Point(**{**point.__dict__, "row_us": cost(tier, values)})


def open_point(folder: Path, point: Point, classes: int) -> Tier:
    """Return a point's model as a tier; raises CascadeError."""
    return open_tier(point.tier(file=point.file), folder, classes)


def cost(tier: Tier, rows: NDArray[Any]) -> dict[str, float]:
    """Return the time per row, in us, by rows at once: the best of a few spells."""
    found = {}
    for many in BATCHES:
        given = np.resize(rows, (many, rows.shape[1]))
        tier.probabilities(given)
        best = float("inf")
        for _ in range(_TRIES):
            asked, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < _COST_SPELL_S / _TRIES or not asked:
                tier.probabilities(given)
                asked += 1
            best = min(best, took / max(1, asked))
        found[str(many)] = round(best / many * 1e6, 3)
    return found


def read_point(path: Path) -> Point:
    """Read a point; raises InputError."""
    found = read_json(path)
    if found.pop("version", None) != VERSION:
        raise InputError(f"{path}: not a point of this version of the study")
    try:
        key = Key(**found.pop("key"))
        found["columns"], found["classes"] = tuple(found["columns"]), tuple(found["classes"])
        return Point(key, **found)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: no point of a study: {error}") from None


def read_answers(folder: Path, point: Point, flows: int, classes: int) -> NDArray[np.float32]:
    """Return what a point's model answered, (flows, classes): NaN where it was not asked.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / f"{point.key.name}.npz"
    out = np.full((flows, classes), np.nan, np.float32)
    try:
        with np.load(path, allow_pickle=False) as found:
            out[found["flows"]] = found["probabilities"]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: answers that cannot be read: {error}") from None
    return out


def read_model(folder: Path, point: Point) -> bytes:
    """Return a point's model file; raises InputError where it is missing or not the one trained."""
    path = folder / point.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) > MOST_MODEL_BYTES or hashlib.sha256(data).hexdigest() != point.sha256:
        raise InputError(f"{path}: is not the model that was trained")
    return data
