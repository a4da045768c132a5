"""Weights of fewer bits: a version of a model that is faster, where that costs next to no accuracy.

``int16`` is for the study's LSTMs, which compiled code of ours runs: the file stays, and weights are rounded when it is
loaded. ``int8`` is ONNX Runtime's dynamic quantisation, a quarter of the size: weights are rounded once, the inputs of
each layer per run of the model. So an answer depends a little on the packets beside it in the run, which is why the
loss is measured and not promised.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packet.card import MODEL_FILE, ModelCard, digest_of, write_card
from models.packet.dataset import TEST, PacketDataset
from models.packet.errors import ModelError
from models.packet.hush import hush
from models.packet.runtime import COMPILED, PacketModel, open_model
from schemas.errors import InputError, SettingsError

BITS = ("int8", "int16")
_MOST_ROWS = 50_000
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Quantized:
    """What quantising gave; ``folder`` is None where the loss was too large."""

    to: str
    folder: str | None
    split: str
    packets: int
    accuracy: float
    accuracy_quantized: float
    agreement: float
    """Share of the packets that both give the same class."""
    bytes: int
    bytes_quantized: int
    packets_per_s: float
    """On one core, in the batches that suit each."""
    packets_per_s_quantized: float

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)

    def text(self) -> str:
        """Return it for people."""
        return (
            f"{self.folder or self.to}: accuracy {self.accuracy_quantized:.4f} instead of {self.accuracy:.4f} on "
            f"{self.packets:,} test packets of the {self.split} split, same class for {self.agreement:.2%}; "
            f"{self.bytes_quantized:,} bytes instead of {self.bytes:,}; "
            f"{self.packets_per_s_quantized:,.0f} packets/s instead of {self.packets_per_s:,.0f}"
        )


def quantize_model(
    folder: Path, dataset: Path, split: str, out: Path, max_loss: float, to: str | None = None
) -> Quantized:
    """Write ``out/NAME/VERSION-int8`` or ``-int16`` unless it loses more than ``max_loss`` of accuracy (0 to 1).

    Args:
        folder: the model's.
        dataset: whose test packets decide.
        split: of the data set.
        out: where the version is written.
        max_loss: most accuracy that it may lose.
        to: None: int16 where the model can be computed so.

    Raises:
        ModelError: the model cannot be used or quantised.
        InputError: the data set cannot, or has other classes.
        SettingsError: ``to`` is neither; or the package ``onnx`` is not installed.
    """
    if to not in (None, *BITS):
        raise SettingsError(f"--to {to}: choose from {', '.join(BITS)}")
    model = open_model(folder)
    if to is None:
        to = "int16" if model.engine == COMPILED else "int8"
    data = PacketDataset.open(dataset)
    if data.class_names != model.classes:
        raise InputError(f"{dataset}: its classes are not those of {model.card.title}")
    rows = data.select(split, TEST)
    if not len(rows):
        raise InputError(f"{dataset}: no test packets in the {split} split")
    if len(rows) > _MOST_ROWS:
        rows = np.sort(np.random.default_rng(1).choice(rows, _MOST_ROWS, replace=False))
    with TemporaryDirectory() as scratch:
        draft = Path(scratch)
        card = write_version(folder, draft, model, to)
        small = open_model(draft)
        for each in (model, small):
            each.tune(0.02, 256)
        said, said_quantized = (_classes(each, data.vectors, rows) for each in (model, small))
        truth = data.classes[rows]
        accuracy, accuracy_quantized = float((said == truth).mean()), float((said_quantized == truth).mean())
        made = Quantized(
            to,
            str(out / card.name / card.version) if accuracy - accuracy_quantized <= max_loss else None,
            split,
            len(rows),
            accuracy,
            accuracy_quantized,
            float((said == said_quantized).mean()),
            (folder / MODEL_FILE).stat().st_size,
            (draft / MODEL_FILE).stat().st_size,
            1e9 / model.row_ns,
            1e9 / small.row_ns,
        )
        if made.folder is not None:
            _write(draft, Path(made.folder), card, made)
    return made


def write_version(folder: Path, draft: Path, model: PacketModel, to: str) -> ModelCard:
    """Write the quantised model into a folder, and a card without its scores, which is returned.

    Raises:
        ModelError: the model cannot be quantised so.
        SettingsError: the package ``onnx`` is not installed.
    """
    changed: dict[str, Any] = {"version": f"{model.card.version}-{to}"}
    if to == "int16":
        if model.engine != COMPILED:
            raise ModelError(
                f"{folder}: {to} is for LSTMs that compiled code runs in floats; int8 is for all"
            )
        shutil.copyfile(folder / MODEL_FILE, draft / MODEL_FILE)
        changed["arithmetic"] = to
    else:
        _quantize(folder / MODEL_FILE, draft / MODEL_FILE)
    changed["sha256"] = digest_of(draft / MODEL_FILE)
    card = model.card.model_copy(update=changed)
    write_card(draft, card)
    return card


def _quantize(source: Path, target: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise SettingsError("onnx is not installed: pip install 'flowgauge[study]'") from None
    try:
        with hush():
            quantize_dynamic(source, target, weight_type=QuantType.QInt8)
    except Exception as error:  # whatever it finds in the graph
        raise ModelError(f"{source}: cannot be quantised: {' '.join(str(error).split())[:200]}") from None


def _classes(model: PacketModel, vectors: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    parts = [rows[i : i + _CHUNK_ROWS] for i in range(0, len(rows), _CHUNK_ROWS)]
    return np.concatenate([model.predict(vectors[part]).argmax(axis=1) for part in parts])


def _write(draft: Path, folder: Path, card: ModelCard, made: Quantized) -> None:
    told = {k: v for k, v in made.as_dict().items() if k != "folder"}
    card = card.model_copy(
        update={
            "scores": {**card.scores, made.to: told},
            "created": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
        }
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes((draft / MODEL_FILE).read_bytes())
        write_card(folder, card)
    except OSError as error:
        raise ModelError(f"{error.filename or folder}: {error.strerror}") from None
