"""What a model costs to ask: packets a second one at a time and by batch size, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packet.budgets import Topology
from models.packet.dataset import VECTOR_OCTETS
from models.packet.export import onnx_answers, onnx_of
from models.packet.onnx_file import read_graph
from models.packet.runtime import kernel_for
from models.packet.study.points import Point, read_json, read_weights, write_json
from models.packet.training import Weights, linear, load

BATCHES = (1, 8, 32, 128, 512)
SPEEDS = "speeds"
_SPELL_S = 0.2
_Answer = Callable[[NDArray[np.uint8]], Any]


@dataclass(frozen=True)
class Speeds:
    """Packets a second by batch size, and bytes."""

    trainer: dict[str, float]
    """``keras.predict`` as the Cape Town study measured it; of an SVM, the product with its weights in NumPy."""
    exported: dict[str, float]
    """ONNX Runtime on one thread."""
    weight_bytes: int
    exported_bytes: int
    """Of the exported file."""
    resident_bytes: int
    """By which loading the exported model and asking it 512 packets at once makes the process grow."""
    served: dict[str, float] = field(default_factory=dict)
    """By what runs it when it is served: compiled code for LSTMs. Empty where a study measured before that."""

    @property
    def when_served(self) -> dict[str, float]:
        """Return the rates of serving; ONNX Runtime's where no others were measured."""
        return self.served or self.exported


def speeds_of(folder: Path, points: Path, point: Point) -> Speeds:
    """Return the speeds of a point's topology: those kept in ``folder``, else measured and kept there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{point.key.kind}-{point.key.budget}.json"
    if not path.exists():
        weights = read_weights(points / f"{point.key.name}.json")
        write_json(path, asdict(measure(point.topology, weights)))
    return Speeds(**read_json(path))


def measure(topology: Topology, weights: Weights) -> Speeds:
    """Measure a model on this machine; takes about five seconds, and where LSTMs are compiled first some ten more."""
    data = onnx_of(topology, weights)
    before = resident_bytes()
    exported = onnx_answers(data)
    exported(_octets(max(BATCHES)))
    grown = max(resident_bytes() - before, 0)
    kernel = kernel_for(read_graph(data), exported)
    if topology.kind == "svm":
        trainer: _Answer = lambda octets: linear(octets, weights)  # noqa: E731
    else:
        model = load(topology, weights)
        trainer = lambda octets: model.predict(octets, batch_size=len(octets), verbose=0)  # noqa: E731
    return Speeds(
        trainer={str(rows): rate(trainer, rows) for rows in BATCHES},
        exported={str(rows): rate(exported, rows) for rows in BATCHES},
        weight_bytes=sum(array.nbytes for array in weights),
        exported_bytes=len(data),
        resident_bytes=grown,
        served={str(rows): rate(kernel.predict, rows) for rows in BATCHES} if kernel else {},
    )


def rate(answer: _Answer, rows: int) -> float:
    """Return how many packets a second ``answer`` does, asked ``rows`` at a time: the best of three spells."""
    octets = _octets(rows)
    answer(octets)
    best = 0.0
    for _ in range(3):
        asked, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < _SPELL_S / 3 or not asked:
            answer(octets)
            asked += 1
        best = max(best, asked * rows / took)
    return round(best, 1)


def _octets(rows: int) -> NDArray[np.uint8]:
    return np.random.default_rng(rows).integers(0, 256, (rows, VECTOR_OCTETS), np.uint8)


def resident_bytes() -> int:
    """Return the memory this process has resident, in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * 4096
