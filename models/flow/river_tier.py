"""Tiers that are classifiers of River, kept as they had learned.

Their file is a pickle, which can name any code to run. So only names of what such classifiers are made of are read.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.card import TierCard
from models.flow.errors import CascadeError
from models.flow.tiers import Tier
from schemas.errors import SettingsError

MAGIC = b"flowgauge river tier 1\n"
_PACKAGES = (
    "river.",
    "models.online.adaptive_tree",
    "models.online.classifier",
    "models.online.ensemble",
    "models.online.observed",
    "models.online.paths",
    "models.online.smoothed_naive_bayes",
)
_UNPICKLE = "__pyx_unpickle_"
"""Begins the names of the functions by which compiled classes are read."""
_NAMES = {
    ("builtins", name)
    for name in ("set", "frozenset", "dict", "list", "tuple", "int", "float", "complex", "bytearray", "range", "slice")
} | {
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("random", "Random"),
    ("copy", "deepcopy"),
    ("river.naive_bayes.gaussian", "GaussianNB._make_gaussian"),
    ("functools", "partial"),
    ("copyreg", "_reconstructor"),
    ("builtins", "object"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}  # fmt: skip


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NAMES:
            return super().find_class(module, name)
        # Dotted names would lead from a module of River into what it imports.
        if "." not in name and module.startswith(_PACKAGES):
            found = super().find_class(module, name)
            is_own = getattr(found, "__module__", "").startswith(_PACKAGES)
            if is_own and (isinstance(found, type) or name.startswith(_UNPICKLE)):
                return found
        raise CascadeError(f"names {module}.{name}, which no classifier is made of")


def river_file(classifier: Any) -> bytes:
    """Return the file of a ``models.online.classifier.OnlineClassifier``."""
    return MAGIC + pickle.dumps(classifier, protocol=5)


class RiverTier(Tier):
    """A classifier of River; what it does not say of a class is 0."""

    def __init__(self, card: TierCard, classes: int, data: bytes) -> None:
        """Load the classifier; raises CascadeError."""
        super().__init__(card, classes)
        try:
            from models.online.classifier import OnlineClassifier
        except ImportError:
            raise SettingsError("river is not installed: pip install 'flowgauge[models]'") from None
        if not data.startswith(MAGIC):
            raise CascadeError("not the file of a River tier")
        try:
            found = _Reader(io.BytesIO(data[len(MAGIC) :])).load()
        except CascadeError:
            raise
        except Exception as error:  # damaged pickles raise nearly anything
            raise CascadeError(
                f"is damaged, or of another version of River: {type(error).__name__}"
            ) from None
        if not isinstance(found, OnlineClassifier) or len(found.classes) != len(card.classes):
            raise CascadeError("not a classifier of the classes that the cascade has for it")
        self._classifier = found

    def _probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._classifier.probabilities(rows, self.card.columns)
