"""What can be wrong with a packet model."""

from __future__ import annotations

from schemas.errors import FlowgaugeError


class ModelError(FlowgaugeError):
    """A model that cannot be used; the message names it and says why."""

    exit_code = 3


def one_line(error: Exception) -> str:
    """Return what a library's error says, fit for a message."""
    return " ".join(str(error).split())[:200] or type(error).__name__
