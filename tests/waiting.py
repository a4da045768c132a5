"""Bounded waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(reached: Callable[[], bool], timeout_s: float) -> None:
    """Poll until ``reached`` holds; fails the test when it does not within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"not reached within {timeout_s} s")
        time.sleep(0.05)
