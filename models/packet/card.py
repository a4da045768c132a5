"""The model card, ``card.json``: what a model is, what it was made of, how good it is and what it costs.

A model on disk is a folder ``NAME/VERSION/`` with ``model.onnx`` and ``card.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.packet.errors import ModelError

MODEL_FILE = "model.onnx"
CARD_FILE = "card.json"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$"
"""Of names and versions: they become folders, and come over the bus, so nothing that leads elsewhere."""
MAX_CLASSES = 4096
_CARD_BYTES = 1 << 20
_HASH_BYTES = 1 << 20


class InputSpec(BaseModel):
    """What the model takes: vectors of octets, raw (uint8) or divided by 255 (float32)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    shape: tuple[int, ...] = (1480,)
    dtype: Literal["float32", "uint8"] = "float32"


class ModelCard(BaseModel):
    """A model card. Further keys are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=NAME_PATTERN)
    kind: str = Field(min_length=1, max_length=60)
    """``lstm``, ``mlp``, ``svm``, ``cnn``, ``transformer`` or another."""
    parameters: int = Field(ge=0)
    classes: tuple[str, ...] = Field(min_length=2, max_length=MAX_CLASSES)
    """In the order of the model's outputs."""
    input: InputSpec = InputSpec()
    data: dict[str, Any] = Field(default_factory=dict)
    split: dict[str, Any] | str = Field(default_factory=dict)
    scores: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, Any] = Field(default_factory=dict)
    arithmetic: Literal["float32", "int16"] = "float32"
    """How it is computed where that is compiled code of our own: ``int16`` rounds an LSTM's weights to 16 bits."""
    created: str = ""
    """When it was made, as ISO 8601."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Of ``model.onnx``; empty before the model is published."""

    @property
    def title(self) -> str:
        """Return ``NAME/VERSION``."""
        return f"{self.name}/{self.version}"

    def files(self) -> tuple[str, ...]:
        """Return the names of the files that lie beside the card."""
        return (MODEL_FILE,)


def read_card(folder: Path) -> ModelCard:
    """Read the card of a model folder.

    Raises:
        ModelError: there is none, or it is no model card; names the file and the key.
    """
    path = folder / CARD_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_CARD_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: no model card: {error.strerror}") from None
    if len(text) > _CARD_BYTES:
        raise ModelError(f"{path}: a model card of more than {_CARD_BYTES:,} bytes")
    try:
        card = ModelCard.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the card"
        raise ModelError(f"{path}: {key}: {first['msg']}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from None
    if len(set(card.classes)) != len(card.classes):
        raise ModelError(f"{path}: a class is listed twice")
    return card


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the card into a model folder."""
    (folder / CARD_FILE).write_text(card_text(card), encoding="utf-8")


def card_text(card: ModelCard) -> str:
    """Return what a card's file holds."""
    return json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def is_name(text: str) -> str:
    """Return the name of a model or version; raises ModelError for one that would lead elsewhere as a folder."""
    if not re.match(NAME_PATTERN, text):
        raise ModelError(
            f"{text!r} is no name for a model or version: letters, digits, dot, dash, underscore"
        )
    return text


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()
