"""What a decoder keeps between frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.decoder.fragments import Fragments, allocate_fragments
from producers.decoder.reasons import COUNTS


class DecodeState(NamedTuple):
    """What a decoder keeps between frames."""

    counts: NDArray[np.int64]
    """By result of decoding (see ``producers.decoder.reasons``)."""
    fragments: Fragments


def allocate_state() -> DecodeState:
    """Return the state of a decoder that has seen nothing yet."""
    return DecodeState(np.zeros(COUNTS, np.int64), allocate_fragments())
