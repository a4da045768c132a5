"""The bitrate ladder, and the sizes of its segments."""

from __future__ import annotations

import random
from typing import NamedTuple

SEGMENT_S = 2.0


class Rung(NamedTuple):
    """One encoding of a title: height of the picture in lines, mean rate in bit/s."""

    height: int
    rate_bps: float


LADDER = (Rung(240, 3e5), Rung(360, 6e5), Rung(480, 1.2e6), Rung(720, 2.4e6), Rung(1080, 4.8e6))


def segment_octets(title: int, number: int, rung: int) -> int:
    """Return the size of a segment: variable rate, the same scene heavy or light on every rung."""
    scene = random.Random(f"{title}/{number}").lognormvariate(0, 0.3)  # noqa: S311 - behaviour
    own = random.Random(f"{title}/{number}/{rung}").uniform(0.93, 1.07)  # noqa: S311 - behaviour
    return int(LADDER[rung].rate_bps * SEGMENT_S / 8 * min(2.2, max(0.4, scene)) * own)
