"""What can be wrong with a packet model."""

from __future__ import annotations

from schemas.errors import FlowgaugeError


class ModelError(FlowgaugeError):
    """A model that cannot be used; the message names it and says why."""

    exit_code = 3
