"""What a cascade is, as ``cascade.json`` says it.

A cascade on disk is a folder ``NAME/VERSION/`` with ``cascade.json`` and one model file for each tier. Tiers,
thresholds and what new flows are compared with stand in the one file, so that they change together.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.flow.errors import CascadeError
from models.packet.card import ModelCard
from schemas.payloads import FIRST_OCTETS
from schemas.topics import PAYLOADS

CASCADE_FILE = "cascade.json"
DEPTHS = (1, 2, 3, 5, 10)
"""Packets after which a flow may be answered, where nothing else is asked for."""
KINDS = ("decision_tree", "lightgbm", "random_forest", "mlp", "cnn", "river", "packet")
FORMAT = 1
_MOST_BYTES = 16 << 20
_FILE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,80}$"
_DIGEST_PATTERN = r"^[0-9a-f]{64}$"
_LEAST_TEMPERATURE = 1e-3

Kind = Literal["decision_tree", "lightgbm", "random_forest", "mlp", "cnn", "river", "packet"]
Method = Literal["universal", "per_class", "none"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Part):
    """How a tier's greatest probability becomes a confidence: the share of such answers that are right."""

    method: Literal["none", "temperature", "isotonic"] = "none"
    temperature: float = Field(default=1.0, ge=_LEAST_TEMPERATURE, le=1e3)
    """Log probabilities are divided by it (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    """Of ``isotonic``: confidences ``y`` at probabilities ``x``, straight lines between."""

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if len(self.x) != len(self.y) or (self.method == "isotonic" and not self.x):
            raise ValueError("isotonic calibration needs as many y as x, one at least")
        if any(b < a for values in (self.x, self.y) for a, b in pairwise(values)):
            raise ValueError("isotonic calibration must not fall")
        return self

    def confidence(self, probabilities: NDArray[np.float32], top: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the confidence of each row's answer ``top``, (rows,), from (rows, classes)."""
        greatest: NDArray[np.float32] = probabilities[np.arange(len(top)), top]
        if self.method == "isotonic":
            return np.interp(greatest, self.x, self.y).astype(np.float32)
        if self.method == "temperature" and self.temperature != 1.0:
            # Relative to the greatest, so that nothing overflows; 0 stays 0 by the power, as it must.
            others = probabilities / np.maximum(greatest, np.float32(1e-30))[:, np.newaxis]
            sums = np.power(others, np.float32(1 / self.temperature)).sum(axis=1)
            return (1 / np.maximum(sums, 1)).astype(np.float32)
        return greatest


class TierCard(_Part):
    """One tier: a model, and the rows that it answers."""

    name: str = Field(pattern=_FILE_PATTERN)
    kind: Kind
    representation: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    """Rows of which representation; ``payloads`` for a packet model."""
    depth: int = Field(ge=1, le=64)
    """Packets of the flow that a row must tell of."""
    columns: tuple[str, ...] = Field(min_length=1, max_length=1 << 16)
    """Names of the features that the model takes, in its order."""
    classes: tuple[int, ...] = Field(min_length=1)
    """The model's outputs as numbers of the cascade's classes."""
    file: str = Field(pattern=_FILE_PATTERN)
    sha256: str = Field(pattern=_DIGEST_PATTERN)
    calibration: Calibration = Calibration()
    scores: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _octets_fit(self) -> Self:
        if (self.kind == "packet") != (self.representation == PAYLOADS):
            raise ValueError(
                f"tier {self.name}: packet models, and no others, answer the representation {PAYLOADS}"
            )
        if self.kind == "packet" and len(self.columns) != FIRST_OCTETS:
            raise ValueError(f"tier {self.name}: a packet model takes {FIRST_OCTETS} octets")
        return self


class Ladder(_Part):
    """Thresholds of one tier for any share of its flows that is to go on: a rung for each share, rising."""

    shares: tuple[float, ...] = Field(min_length=2)
    """Of the tier's flows that escalate, from 0 to 1."""
    values: tuple[tuple[float, ...], ...]
    """(rungs, classes): an answer of class c escalates if its confidence is below ``values[rung][c]``."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.values) != len(self.shares):
            raise ValueError("a ladder needs a row of thresholds for each share")
        if self.shares[0] != 0 or self.shares[-1] > 1:
            raise ValueError("a ladder's shares go from 0 to 1 at most")
        if any(b <= a for a, b in pairwise(self.shares)):
            raise ValueError("a ladder's shares must rise")
        rungs = [len(row) for row in self.values]
        if len(set(rungs)) != 1:
            raise ValueError("a ladder's rungs are of different length")
        table = np.array(self.values)
        if not np.isfinite(table).all() or (np.diff(table, axis=0) < 0).any():
            raise ValueError("a ladder's thresholds must be finite and must not fall from rung to rung")
        return self

    def at(self, share: float) -> NDArray[np.float32]:
        """Return the thresholds, (classes,), at which ``share`` of the tier's flows escalate."""
        values = np.array(self.values)
        return np.array([np.interp(share, self.shares, column) for column in values.T], np.float32)


class Thresholds(_Part):
    """When a tier's answer is not good enough; belongs to just the tiers that it was tuned with."""

    method: Method = "none"
    of: str = Field(pattern=_DIGEST_PATTERN)
    """``tiers_digest`` of the tiers."""
    ladders: tuple[Ladder, ...]
    """For each tier but the last."""
    shares: tuple[float, ...]
    """The rung in use on each ladder: the share of the tier's flows that escalate."""
    budget: dict[str, Any] = Field(default_factory=dict)
    """What it was tuned for, and what that came to."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.shares) != len(self.ladders):
            raise ValueError("thresholds need a share for each ladder")
        if not all(0 <= share <= 1 for share in self.shares):
            raise ValueError("a share is from 0 to 1")
        return self


class Unknown(_Part):
    """When an answer is "unknown": too little confidence, or a row unlike all that the tier learned from."""

    confidence_floor: float = Field(default=0.0, ge=0, le=1)
    centre: tuple[float, ...] = ()
    """Of each column of the tier, under a signed logarithm; empty: rows are not judged."""
    scale: tuple[float, ...] = ()
    limit: float = Field(default=1e30, gt=0)
    """A row whose score (see ``models.flow.unknown``) is greater is unknown."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.centre) != len(self.scale):
            raise ValueError("centre and scale differ in length")
        if not np.isfinite([*self.centre, *self.scale]).all() or any(s <= 0 for s in self.scale):
            raise ValueError("centre and scale must be finite, and scale over 0")
        return self


class Histogram(_Part):
    """How values were distributed when the cascade was made."""

    name: str
    edges: tuple[float, ...]
    """Inner edges of the bins, rising; values equal to an edge are in the bin above it."""
    shares: tuple[float, ...]
    """Of the values in each bin, one more than edges."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError("a histogram has one more share than edges")
        if any(b <= a for a, b in pairwise(self.edges)):
            raise ValueError("a histogram's edges must rise")
        return self


class Reference(_Part):
    """What a tier's inputs and answers looked like on held-out flows: what drift is told from."""

    inputs: tuple[Histogram, ...] = ()
    confidence: Histogram | None = None
    answers: tuple[float, ...] = ()
    """Share of the answers by class of the cascade."""


class CascadeCard(ModelCard):
    """``cascade.json``. ``sha256`` is that of the file itself, and so not in it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format: Literal[1] = 1
    kind: str = "cascade"
    parameters: int = 0
    tiers: tuple[TierCard, ...] = Field(min_length=1, max_length=16)
    """From the fastest to the slowest; depths never fall."""
    thresholds: Thresholds
    unknown: tuple[Unknown, ...]
    """For each tier."""
    reference: tuple[Reference, ...] = ()
    """For each tier, or none."""
    wait_s: float = Field(default=10.0, gt=0, le=3600)
    """How long a flow was held to wait for a deeper tier's packets when the thresholds were tuned."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        many = len(self.classes)
        if len(set(self.classes)) != many:
            raise ValueError("a class is listed twice")
        if len({tier.name for tier in self.tiers}) != len(self.tiers):
            raise ValueError("two tiers have the same name")
        if any(b.depth < a.depth for a, b in pairwise(self.tiers)):
            raise ValueError("the depth of tiers must not fall")
        for tier in self.tiers:
            if (
                max(tier.classes) >= many
                or min(tier.classes) < 0
                or len(set(tier.classes)) < len(tier.classes)
            ):
                raise ValueError(f"tier {tier.name}: classes that are not the cascade's")
        if len(self.unknown) != len(self.tiers) or len(self.reference) not in (0, len(self.tiers)):
            raise ValueError("unknown and reference are needed for each tier")
        for tier, unknown in zip(self.tiers, self.unknown, strict=True):
            if unknown.centre and len(unknown.centre) != len(tier.columns):
                raise ValueError(f"tier {tier.name}: unknown has other columns than the tier")
        check_thresholds(self.thresholds, self.tiers, many)
        return self

    def files(self) -> tuple[str, ...]:
        """Return the names of the tiers' files; one may serve several tiers."""
        return tuple(dict.fromkeys(tier.file for tier in self.tiers))


def tiers_digest(tiers: tuple[TierCard, ...]) -> str:
    """Return a digest of all that thresholds depend on: the models, their inputs, their calibration."""
    parts = [tier.model_dump(mode="json", exclude={"scores", "cost", "file"}) for tier in tiers]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_thresholds(thresholds: Thresholds, tiers: tuple[TierCard, ...], classes: int) -> None:
    """Raise ValueError unless thresholds were tuned with these tiers."""
    if thresholds.of != tiers_digest(tiers):
        raise ValueError(
            "these thresholds were tuned with other tiers or another version of them "
            f"({thresholds.of[:12]}…, not {tiers_digest(tiers)[:12]}…)"
        )
    if len(thresholds.ladders) != len(tiers) - 1:
        raise ValueError(f"{len(thresholds.ladders)} ladders of thresholds for {len(tiers)} tiers")
    if any(len(ladder.values[0]) != classes for ladder in thresholds.ladders):
        raise ValueError(f"thresholds are not for {classes} classes")


def never(tiers: tuple[TierCard, ...], classes: int) -> Thresholds:
    """Return thresholds by which no flow escalates until a share is asked for; then confidence alone decides."""
    ladder = Ladder(shares=(0.0, 1.0), values=((0.0,) * classes, (1.01,) * classes))
    many = len(tiers) - 1
    return Thresholds(method="none", of=tiers_digest(tiers), ladders=(ladder,) * many, shares=(0.0,) * many)


def read_cascade_card(folder: Path) -> CascadeCard:
    """Read ``cascade.json`` of a folder.

    Raises:
        CascadeError: there is none, or it is not one; names the file and the key.
    """
    path = folder / CASCADE_FILE
    data = read_file(path)
    try:
        card = CascadeCard.model_validate({**_json(data), "sha256": hashlib.sha256(data).hexdigest()})
    except ValidationError as error:
        raise CascadeError(f"{path}: {_first(error)}") from None
    except ValueError as error:
        raise CascadeError(f"{path}: not JSON: {error}") from None
    return card


def read_thresholds(path: Path, card: CascadeCard) -> Thresholds:
    """Read thresholds kept in a file of their own.

    Raises:
        CascadeError: it cannot be read, or they were tuned with other tiers than the card's.
    """
    try:
        found = Thresholds.model_validate(_json(read_file(path)))
        check_thresholds(found, card.tiers, len(card.classes))
    except ValidationError as error:
        raise CascadeError(f"{path}: {_first(error)}") from None
    except ValueError as error:
        raise CascadeError(f"{path}: of another cascade than {card.title}: {error}") from None
    return found


def cascade_json(card: CascadeCard) -> bytes:
    """Return ``cascade.json``."""
    told = card.model_dump(mode="json", exclude={"sha256", "input"})
    return (json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_file(path: Path, most: int = _MOST_BYTES) -> bytes:
    """Return a file of ``most`` bytes; raises CascadeError for a longer one or none."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise CascadeError(f"{path}: {error.strerror or error}") from None
    if len(data) > most:
        raise CascadeError(f"{path}: more than {most:,} bytes")
    return data


def _json(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
