"""The base of every component's settings: declared once with default, unit and doc."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the settings file; unknown keys are errors.

    Fields carry their default and, in ``description``, unit and meaning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
