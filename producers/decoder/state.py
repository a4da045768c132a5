"""What a decoder keeps between frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.decoder.fragments import Fragments, allocate_fragments
from producers.decoder.reasons import COUNTS
from producers.names.spots import Spots, allocate_spots


class DecodeState(NamedTuple):
    """What a decoder keeps between frames."""

    counts: NDArray[np.int64]
    """By result of decoding (see ``producers.decoder.reasons``)."""
    fragments: Fragments
    spots: Spots
    """Packets that may tell a name."""


def allocate_state(spots: Spots | None = None) -> DecodeState:
    """Return the state of a decoder that has seen nothing yet; without ``spots`` names are not looked for."""
    return DecodeState(np.zeros(COUNTS, np.int64), allocate_fragments(), spots or allocate_spots(0))
