"""Whether the machine's clock is kept right by somebody, as the kernel knows it."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

_UNSYNCHRONISED = 0x40


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), as far as it is needed."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class ClockState(NamedTuple):
    """What the kernel knows of the wall clock."""

    synchronised: bool
    error_ns: int
    """Estimated error, by whoever keeps the clock."""


def clock_state() -> ClockState | None:
    """Ask the kernel, which takes no rights; None where a sandbox forbids even that."""
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return ClockState(not timex.status & _UNSYNCHRONISED, timex.esterror * 1000)
