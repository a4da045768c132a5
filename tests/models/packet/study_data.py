"""Small data sets of packets made for tests of training and study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from models.packet.dataset import MANIFEST, VECTOR_OCTETS, VERSION, PacketDataset

CLASSES = ("chat", "mail", "web")
_PACKETS_OF_FLOW = 5


def dataset(folder: Path, classes: tuple[str, ...] = CLASSES, rows: int = 60) -> PacketDataset:
    """Write a data set: octet 30 + i of class i is 200, the rest is noise; every flow has five packets."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.repeat(np.arange(len(classes)), rows).astype("<i4")
    total = len(numbers)
    vectors = rng.integers(0, 60, (total, VECTOR_OCTETS), np.uint8)
    vectors[:, :20] = 0
    vectors[np.arange(total), 30 + numbers] = 200
    within = np.arange(total) % rows
    flow = np.arange(total) // _PACKETS_OF_FLOW
    part = np.where(within < 0.6 * rows, 0, np.where(within < 0.8 * rows, 1, 2)).astype("u1")
    arrays = {
        "vectors": vectors,
        "classes": numbers,
        "flow": flow.astype("<i8"),
        "capture": np.zeros(total, "<i4"),
        "packet_number": (within % _PACKETS_OF_FLOW + 1).astype("<u4"),
        "handshake": within % _PACKETS_OF_FLOW == 0,
        **{f"split_{name}": part for name in ("random", "flow", "capture")},
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    manifest = {"version": VERSION, "rows": total, "classes": list(classes), "sources": [{"name": "made"}]}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return PacketDataset.open(folder)
