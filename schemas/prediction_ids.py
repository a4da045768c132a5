"""Ids of predictions: the same whenever the same model says something about the same thing, whatever its version."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.blake2b import digests

NAMED: np.dtype[Any] = np.dtype([("flow_id", "<u8"), ("depth", "<u4"), ("interval_start_ns", "<i8")])
"""What an id names beside the model and the representation: ``depth`` packets of a flow, or of one of its intervals."""


def ids_of(model: str, representation: str, named: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return the id of what a model says of each row.

    Args:
        model: its name.
        representation: what of a flow it is shown.
        named: (rows,) ``NAMED``.
    """
    return digests(_head(model, representation), named.view(np.uint8).reshape(-1, NAMED.itemsize))


@lru_cache(maxsize=64)
def _head(model: str, representation: str) -> NDArray[np.uint8]:
    return np.frombuffer(f"{model}\0{representation}\0".encode(), np.uint8)


def warm_up() -> None:
    """Have what is compiled here compiled, or loaded, before a message waits for it."""
    ids_of("", "", np.zeros(1, NAMED))
