"""A data set of packets on disk: a folder of arrays that are mapped into memory, and a manifest.

One row is one packet: ``VECTOR_OCTETS`` octets of its IP payload, masked and padded with zeros. The rows of a
class stand together, in the order of the manifest's classes; within it they are shuffled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import InputError
from schemas.payloads import FIRST_OCTETS

VERSION = 1
VECTOR_OCTETS = FIRST_OCTETS
MANIFEST = "manifest.json"

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 255
SHARES = (0.64, 0.16, 0.20)
"""Of the packets, in train, validation and test."""
SPLITS = ("random", "flow", "capture")
"""How rows are split: by packet; so that no flow, or no group of captures, is on two sides."""

ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "vectors": ("|u1", (VECTOR_OCTETS,)),
    "classes": ("<i4", ()),
    "flow": ("<i8", ()),
    "capture": ("<i4", ()),
    "packet_number": ("<u4", ()),
    "handshake": ("|b1", ()),
    **{f"split_{name}": ("|u1", ()) for name in SPLITS},
}
"""Name to element type and shape of a row; each is stored as NAME.npy."""


@dataclass(frozen=True)
class PacketDataset:
    """An open data set; the arrays are read-only maps with one row per packet."""

    path: Path
    manifest: dict[str, Any]
    vectors: NDArray[np.uint8]
    """(rows, VECTOR_OCTETS)"""
    classes: NDArray[np.int32]
    """Index into ``class_names``."""
    flow: NDArray[np.int64]
    """Number of the packet's flow within the data set."""
    capture: NDArray[np.int32]
    """Index into ``sources``."""
    packet_number: NDArray[np.uint32]
    """Which packet of its flow, from 1, those without payload counted too."""
    handshake: NDArray[np.bool_]
    """The packet belongs to a TLS or QUIC handshake."""
    split_random: NDArray[np.uint8]
    split_flow: NDArray[np.uint8]
    split_capture: NDArray[np.uint8]

    @classmethod
    def open(cls, path: str | Path) -> PacketDataset:
        """Open a data set that ``flowgauge dataset`` made.

        Raises:
            InputError: it is none, or damaged; names the file.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        rows = manifest["rows"]
        arrays = {name: _map(folder / f"{name}.npy", rows, *ARRAYS[name]) for name in ARRAYS}
        found = cls(folder, manifest, **arrays)
        if rows and not 0 <= int(found.classes.min()) <= int(found.classes.max()) < len(found.class_names):
            raise InputError(f"{folder / 'classes.npy'}: a class that {MANIFEST} does not name")
        return found

    @property
    def rows(self) -> int:
        """Return how many packets there are."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes, in the order of their numbers."""
        return tuple(self.manifest["classes"])

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Return the captures: name, SHA-256, group and counts of each."""
        found: list[dict[str, Any]] = self.manifest["sources"]
        return found

    def split(self, name: str) -> NDArray[np.uint8]:
        """Return the split of that name (see SPLITS): TRAIN, VALIDATION, TEST or UNUSED for each row.

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise InputError(f"split {name}: there is {', '.join(SPLITS)}")
        found: NDArray[np.uint8] = getattr(self, f"split_{name}")
        return found

    def select(self, split: str, part: int, *, without_handshake: bool = False) -> NDArray[np.int64]:
        """Return the numbers of the rows in one part (TRAIN, …) of a split, in ascending order."""
        chosen = self.split(split) == part
        if without_handshake:
            chosen &= ~self.handshake
        return np.flatnonzero(chosen)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of some rows as models take them: float32, 0 to 1."""
        return self.vectors[rows].astype(np.float32) / np.float32(255)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a data set; raises InputError where the folder holds none of this version."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no data set of packets (no {MANIFEST})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        found = manifest.get("version") if isinstance(manifest, dict) else None
        raise InputError(f"{path}: version {found!r} of the data set, not {VERSION}")
    wanted = {"rows": int, "classes": list, "sources": list}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"{path}: no {key}")
    return manifest


def _map(path: Path, rows: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if array.dtype != np.dtype(dtype) or array.shape != (rows, *shape):
        raise InputError(
            f"{path}: {array.shape} of {array.dtype.str}, not {(rows, *shape)} of {dtype} as {MANIFEST} says"
        )
    return array
