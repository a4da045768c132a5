"""A tier of a cascade ready to answer: rows of features in, the probability of each class out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.card import TierCard, read_file
from models.flow.errors import CascadeError
from schemas.compiled import compiled

Matrix = NDArray[Any]
"""(rows, columns), float32; uint8 where they are octets."""
MOST_MODEL_BYTES = 512 << 20
_SMOKE_ROWS = 8
_SUM_TOLERANCE = 1e-3


class Tier(ABC):
    """A model that answers rows of one representation at one depth. One thread at a time."""

    def __init__(self, card: TierCard, classes: int) -> None:
        """Take what the cascade says of the tier, and how many classes the cascade has."""
        self.card = card
        self._classes = classes
        self._places = None if card.classes == tuple(range(classes)) else np.array(card.classes)

    @property
    def name(self) -> str:
        """Return the tier's name."""
        return self.card.name

    @property
    def depth(self) -> int:
        """Return how many packets of the flow a row must tell of."""
        return self.card.depth

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the features that the tier takes, in its order."""
        return self.card.columns

    def probabilities(self, rows: Matrix) -> NDArray[np.float32]:
        """Return the probability of each class of the cascade, (rows, classes), for (rows, columns)."""
        if not len(rows):
            return np.zeros((0, self._classes), np.float32)
        found = self._probabilities(self._prepared(rows))
        if self._places is None:
            return found
        # A class that the model does not know is never its answer.
        out = np.zeros((len(rows), self._classes), np.float32)
        out[:, self._places] = found
        return out

    def _prepared(self, rows: Matrix) -> NDArray[Any]:
        """Return the rows as the model takes them, without NaN."""
        return _finite(np.asarray(rows, np.float32))

    @abstractmethod
    def _probabilities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return the probability of each class of the model for rows without NaN."""

    def places(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Return where the tier's columns stand among a representation's, (columns,).

        Raises:
            CascadeError: one is missing.
        """
        at = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.columns if name not in at]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CascadeError(
                f"tier {self.name}: representation {self.card.representation} has no column {missing[0]}{more}"
            )
        return np.array([at[name] for name in self.columns], np.intp)


def _finite(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows with 0 for what is not finite, as in training; the same array where all is."""
    rows = np.ascontiguousarray(rows, np.float32)
    return rows if _all_finite(rows) else np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)


@compiled
def _all_finite(rows: NDArray[np.float32]) -> bool:
    # Adding up costs less than asking each; a sum that overflows is looked at more closely, and nothing changes.
    total = np.float32(0)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            total += rows[i, j]
    return bool(np.isfinite(total))


def open_tier(card: TierCard, folder: Path, classes: int) -> Tier:
    """Load a tier's model and try it out.

    Args:
        card: of the tier.
        folder: where its file lies.
        classes: how many the cascade has.

    Raises:
        CascadeError: it cannot be used; names the file and says why.
        SettingsError: what runs such models is not installed.
    """
    from models.flow.onnx_tier import OnnxTier, PacketTier
    from models.flow.river_tier import RiverTier

    path = folder / card.file
    data = read_file(path, MOST_MODEL_BYTES)
    kinds: dict[str, type[OnnxTier] | type[RiverTier]] = {"river": RiverTier, "packet": PacketTier}
    try:
        tier = kinds.get(card.kind, OnnxTier)(card, classes, data)
        _try(tier, classes)
    except CascadeError as error:
        raise CascadeError(f"{path}: {error}") from None
    return tier


def _try(tier: Tier, classes: int) -> None:
    rows = np.random.default_rng(1).normal(0, 100, (_SMOKE_ROWS, len(tier.columns))).astype(np.float32)
    rows[0] = 0
    try:
        found = tier.probabilities(rows)
    except CascadeError:
        raise
    except Exception as error:  # each library has its own classes
        raise CascadeError(f"it does not answer: {' '.join(str(error).split())[:200]}") from None
    if found.shape != (_SMOKE_ROWS, classes) or found.dtype != np.float32:
        raise CascadeError(f"its answers are {found.dtype} {found.shape}, not float32 {_SMOKE_ROWS, classes}")
    if (
        not np.isfinite(found).all()
        or found.min() < 0
        or np.abs(found.sum(axis=1) - 1).max() > _SUM_TOLERANCE
    ):
        raise CascadeError("its answers are no probabilities: a row does not sum to 1")
