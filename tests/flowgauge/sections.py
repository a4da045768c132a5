"""Settings sections for tests of the settings file itself, so that no component's defaults decide them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.settings import Settings


class Part(Settings):
    name: str = Field(description="Name of the part.")
    size: int = Field(default=1, ge=1, description="Size in octets.")


class Alpha(Settings):
    bootstrap: str = Field(default="127.0.0.1:9092", description="Brokers to start from.")
    partitions: int = Field(default=4, ge=1, le=64, description="Partitions.")
    mode: Literal["fast", "slow"] = Field(default="fast", description="How.")
    timeout_s: float = Field(default=1.5, gt=0, description="Patience in s.")
    limit: int | None = Field(default=None, description="Most of them; none without.")


class Beta(Settings):
    names: tuple[str, ...] = Field(default=("a", "b"), description="Names.")
    extra: dict[str, str] = Field(default_factory=dict, description="More properties.")
    parts: tuple[Part, ...] = Field(default=(Part(name="one"),), description="Parts.")


CLASSES: dict[str, type[Settings]] = {"alpha": Alpha, "beta": Beta}
