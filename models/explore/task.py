"""What is searched: a task names candidate features, when rows are made, and how the quality is judged."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from schemas.errors import InputError, SettingsError
from schemas.settings import Settings
from streams.config import Kind, RepresentationSettings

Metric = Literal["f1_macro", "f1_weighted", "rmse"]
Group = Literal["auto", "capture", "host", "flow"]
COUNTS = "counts"
"""Key of a table's columns that every choice has."""
NAME = "explore"
"""Of the representation in the settings files."""


class Task(Settings):
    """A task, named (NAMED) or in a TOML file of these keys."""

    features: tuple[str, ...] = Field(
        min_length=1, description="Candidates. Those that tell addresses or ports are yours to leave out."
    )
    periods_s: tuple[float, ...] = Field(default=(), description="Windows to try, in seconds.")
    depths: tuple[int, ...] = Field(default=(), description="Packets to try after which a flow is judged.")
    whole_flow: bool = Field(default=False, description="Whether to try rows of whole flows, too.")
    metric: Metric = Field(default="f1_macro", description="Quality.")
    label_column: str = Field(default="label", description="Column of the labels file.")
    group_by: Group = Field(
        default="auto",
        description="What no two folds share: capture, host (the flow's source), flow. auto: the first of them "
        "that there are enough of.",
    )
    merge: dict[str, str] = Field(
        default={},
        description='Labels taken for another one, as tiny = "low"; rows of a label taken for "" are left out.',
    )
    columns: dict[str, tuple[str, ...]] = Field(
        default={},
        description="For tables of flows: which of their columns stand for each candidate, and for the counts that "
        "every row has (counts).",
    )
    group_column: str = Field(
        default="", description="For tables: the column whose values no two folds share, such as a host."
    )
    group_span: float = Field(
        default=0.0,
        ge=0,
        description="For tables: group_column is a number, of which spans of this length are groups; 0: no.",
    )
    seconds_column: str = Field(
        default="", description="For tables: the column of flows' durations in seconds."
    )
    folds: int = Field(default=5, ge=2, le=20, description="Most folds of the cross-validation.")
    least_flow_octets: int = Field(
        default=0,
        ge=0,
        description="Flows with fewer octets in a capture are left out, as a service's filter would.",
    )
    most_rows: int = Field(
        default=20_000, ge=100, description="Most rows scored; more are drawn from at random."
    )

    @model_validator(mode="after")
    def _has_rows(self) -> Task:
        if not (self.periods_s or self.depths or self.whole_flow):
            raise ValueError("a task tries periods_s, depths or whole_flow, one at least")
        unknown = sorted(set(self.columns) - {COUNTS, *self.features})
        if unknown:
            raise ValueError(f"columns of {', '.join(unknown)}: not among the features")
        return self

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Return all moments to try."""
        windows = [Moment("window", every_s=period) for period in self.periods_s]
        early = [Moment("early", depth=depth) for depth in self.depths]
        return (*windows, *early, *([Moment("flow")] if self.whole_flow else []))


@dataclass(frozen=True)
class Moment:
    """When rows are made."""

    kind: Kind
    every_s: float = 10.0
    depth: int = 8

    def __str__(self) -> str:
        """Return it in words."""
        return {
            "window": f"window {self.every_s:g} s",
            "early": f"{self.depth} packets",
            "flow": "whole flow",
        }[self.kind]

    def representation(self, features: tuple[str, ...]) -> RepresentationSettings:
        """Return the representation of features at this moment; raises SettingsError."""
        try:
            return RepresentationSettings(
                name=NAME, kind=self.kind, features=features, every_s=self.every_s, depth=self.depth
            )
        except ValidationError as error:
            raise SettingsError(f"{self}: {error.errors()[0]['msg']}") from None


NAMED: dict[str, Task] = {
    "video": Task(
        features=(
            "totals", "size_statistics", "gap_statistics", "activity",
            "tcp_flag_counts", "tcp_delivery", "tcp_rtt", "tcp_receive_window",
            "video_segments",
        ),
        periods_s=(2.0, 5.0, 10.0),
        least_flow_octets=500_000,
    ),
    "attacks": Task(
        features=(
            "protocol", "totals", "packet_sequence", "size_statistics", "gap_statistics",
            "flag_sequence", "tcp_flag_counts",
        ),
        depths=(2, 4, 8, 16),
    ),
}  # fmt: skip


def find_task(name: str) -> Task:
    """Return a named task or that of a TOML file; raises SettingsError, InputError."""
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise SettingsError(f"--task {name}: there are {', '.join(NAMED)}, or a .toml file of your own")
    try:
        return Task.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{path}: {'.'.join(map(str, first['loc'])) or 'task'}: {first['msg']}") from None
