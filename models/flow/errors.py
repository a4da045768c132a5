"""What can be wrong with a cascade."""

from __future__ import annotations

from models.packet.errors import ModelError


class CascadeError(ModelError):
    """A cascade, or one of its tiers, that cannot be used; the message names it and says why."""
