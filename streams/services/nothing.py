"""``streams.services.kernel`` where no service is named: nothing is assigned, nothing is paid."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import inner

NOTHING_CARRIED = (np.int64(0), np.int64(0), np.int64(0))


@inner
def carry_service(r: Any) -> tuple[int, int, int]:
    """Return nothing to keep."""
    return np.int64(0), np.int64(0), np.int64(0)  # type: ignore[return-value]


@inner
def begin_service(r: Any, carried: Any, rules: Any, usage: Any) -> None:
    """Do nothing."""


@inner
def first_name(names: Any, start: int) -> int:
    """Return nothing to go on with."""
    return np.int64(0)  # type: ignore[return-value]


@inner
def is_named(names: Any, naming: int, packet: int) -> bool:
    """Return False."""
    return False


@inner
def named_service(r: Any, names: Any, naming: int, rules: Any) -> tuple[int, int, int]:
    """Return that the name does not count."""
    return -1, 0, 0


@inner
def set_service(r: Any, service: int, found: int, name: int, usage: Any) -> None:
    """Do nothing."""


@inner
def has_service(r: Any, service: int) -> bool:
    """Return False."""
    return False


@inner
def count_service(r: Any, octets: int, usage: Any) -> None:
    """Do nothing."""


@inner
def write_service(identity: Any, r: Any) -> None:
    """Do nothing."""
