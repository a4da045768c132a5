"""The points of a study on disk: a JSON file each, and the weights beside it. A point with a JSON file is finished."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.packet.budgets import Topology
from models.packet.scores import Scores
from models.packet.training import Trained, Weights
from schemas.errors import InputError

POINT_VERSION = 1
PARTS = ("train", "validation", "test", "without_handshake")


@dataclass(frozen=True, order=True)
class Key:
    """Which training a point is."""

    split: str
    kind: str
    budget: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its files, without the ending."""
        return f"{self.split}-{self.kind}-{self.budget}-{self.rate:g}-{self.seed}"

    def __str__(self) -> str:
        """Return it in words."""
        rate = f"C {self.rate:g}" if self.kind == "svm" else f"rate {self.rate:g}"
        return f"{self.kind} of {self.budget:,} parameters, {rate}, seed {self.seed}, split {self.split}"


@dataclass(frozen=True)
class Point:
    """A finished training: what was built and scored, or why there is nothing."""

    key: Key
    topology: Topology
    epochs: int
    scores: dict[str, Scores]
    """By part, see PARTS; empty if the training diverged."""
    failure: str | None = None

    @property
    def test(self) -> Scores:
        """Return what it scored on the test packets."""
        return self.scores["test"]


def point_of(key: Key, topology: Topology, trained: Trained) -> Point:
    """Return the point that a training makes."""
    return Point(key, topology, trained.epochs, {part: getattr(trained, part) for part in PARTS})


def write_point(folder: Path, point: Point, weights: Weights | None) -> None:
    """Write a point, whole or not at all."""
    if weights is not None:
        packed = io.BytesIO()
        np.savez(packed, *weights)  # type: ignore[arg-type]
        write_whole(folder / f"{point.key.name}.npz", packed.getvalue())
    write_json(folder / f"{point.key.name}.json", {"version": POINT_VERSION, **asdict(point)})


def read_point(path: Path) -> Point:
    """Read a point.

    Raises:
        InputError: it cannot be read, or is of another version.
    """
    found = read_json(path)
    if found.get("version") != POINT_VERSION:
        raise InputError(f"{path}: version {found.get('version')!r} of a study's point, not {POINT_VERSION}")
    try:
        topology = found["topology"]
        return Point(
            key=Key(**found["key"]),
            topology=Topology(topology["kind"], tuple(topology["widths"]), topology["classes"]),
            epochs=found["epochs"],
            scores={part: Scores(**values) for part, values in found["scores"].items()},
            failure=found["failure"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: no point of a study: {error}") from None


def read_weights(path: Path) -> Weights:
    """Read the weights beside a point.

    Args:
        path: the point's JSON file.

    Raises:
        InputError: there are none, they are damaged, or some are no numbers.
    """
    path = path.with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as found:
            weights = [found[f"arr_{i}"] for i in range(len(found.files))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: weights that cannot be read: {error}") from None
    if not all(np.isfinite(array).all() for array in weights):
        raise InputError(f"{path}: weights that are no numbers")
    return weights


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises InputError where the file holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_whole(path, (json.dumps(value, separators=(",", ":")) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file such that nobody, not even after a crash, finds half of it."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
