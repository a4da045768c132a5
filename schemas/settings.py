"""The base of every component's settings: declared once, with default, unit and doc; unknown keys are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the settings file. Fields carry their default and, in ``description``, unit and meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
