"""Settings of the flows agent and its flow table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from producers.config import MetricsSettings
from schemas.settings import Settings
from schemas.topics import FEATURES_PATH
from streams.services.config import ServiceSettings

Kind = Literal["early", "window", "flow"]


class RepresentationSettings(Settings):
    """A named set of features and when it is emitted."""

    name: str = Field(description="Name of the representation; its topic is features.<name>.")
    kind: Kind = Field(
        description="When rows are made: early (packet 1 and packet `depth`, or as `depths` says), window (end of "
        "each tumbling window), flow (end of the flow)."
    )
    features: tuple[str, ...] = Field(description="Features computed, by name; nothing else is.")
    depth: int = Field(default=8, ge=1, le=64, description="Packets after which an early row is made again.")
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(),
        max_length=64,
        description="Packets after which early rows are made, such as [1, 2, 3, 5, 10], in place of 1 and `depth`; the "
        "last of them is the depth then.",
    )
    ends: bool = Field(
        default=False,
        description="Also make an early row when a flow ends before the last of these packets, with its end reason.",
    )
    every_s: float = Field(
        default=1.0, ge=0.01, le=3600, description="Length of the tumbling windows in seconds."
    )

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
            raise ValueError("a representation's name is lower-case letters, digits and underscores")
        return name

    @model_validator(mode="before")
    @classmethod
    def _depth_is_the_last(cls, given: Any) -> Any:
        """Let ``depths`` alone say how deep features look."""
        if not isinstance(given, Mapping) or not given.get("depths"):
            return given
        depths = given["depths"]
        if not isinstance(depths, list | tuple) or not all(isinstance(depth, int) for depth in depths):
            return given  # the field says what is wrong
        return {"depth": max(depths), **given}

    @model_validator(mode="after")
    def _depths_fit(self) -> Self:
        if self.kind != "early" and (self.depths or self.ends):
            raise ValueError(
                f"depths and ends are of early representations; {self.name} is of kind {self.kind}"
            )
        if self.depths and self.depth != max(self.depths):
            raise ValueError(f"depth is {self.depth}, but the last of depths is {max(self.depths)}")
        return self

    @property
    def row_depths(self) -> tuple[int, ...]:
        """Return the packets after which an early representation makes rows, in order."""
        return tuple(sorted(set(self.depths or (1, self.depth))))

    @property
    def service_number(self) -> int:
        """Return the number of the service whose flows alone have rows; 0: all flows do."""
        return 0

    @property
    def every_ns(self) -> int:
        """Return the length of the windows in ns."""
        return round(self.every_s * 1e9)


class ServiceRepresentation(RepresentationSettings):
    """What a service collects: windows of its own flows."""

    number: int

    @property
    def service_number(self) -> int:
        """Return the service's number, from 1."""
        return self.number


DEFAULT_REPRESENTATIONS = (
    RepresentationSettings(
        name="early",
        kind="early",
        features=("protocol", "packet_sequence", "flag_sequence", "ttl", "tcp_window"),
    ),
    RepresentationSettings(
        name="window", kind="window", features=("totals", "size_statistics", "gap_statistics")
    ),
    RepresentationSettings(
        name="flow", kind="flow", features=("protocol", "totals", "size_statistics", "gap_statistics")
    ),
)


class WorkerSettings(MetricsSettings):
    """What every worker of the bus has: its consumer group and how it consumes."""

    group: str = Field(description="Consumer group; workers of one group share the partitions.")
    fetch_wait_s: float = Field(
        default=0.1,
        ge=0.001,
        le=30,
        description="How long the broker may hold a fetch until there is data, in seconds. The embedded broker holds "
        "it for as long even where data come meanwhile.",
    )
    commit_interval_s: float = Field(
        default=0.5, ge=0.05, le=60, description="Time between commits in seconds."
    )
    commit_share: float = Field(
        default=0.03,
        gt=0,
        le=0.5,
        description="Most of a worker's time that goes into what a commit needs, such as a copy of the flow state "
        "on the bus. Commits come less often where it would be more.",
    )
    session_timeout_s: float = Field(
        default=6.0,
        ge=1,
        le=300,
        description="Silence in seconds after which the broker gives a dead worker's partitions to others; brokers "
        "refuse less than their group.min.session.timeout.ms, 6 s by default.",
    )
    telemetry_interval_s: float = Field(
        default=1.0, ge=0.1, le=3600, description="Time between two records on telemetry.cost, in seconds."
    )


class StreamsSettings(WorkerSettings):
    """The flows agent: timeouts in event time, bounds, representations."""

    group: str = Field(
        default="flowgauge-flows", min_length=1, description="Consumer group of the flows agents."
    )

    idle_timeout_s: float = Field(
        default=60.0, gt=0, le=86400, description="Silence in seconds after which a flow ends."
    )
    active_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        le=604800,
        description="Age in seconds at which a flow is reported and begun anew.",
    )
    tcp_linger_s: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="Seconds a TCP connection may still be heard of after FIN both ways or RST.",
    )
    lateness_s: float = Field(
        default=0.2,
        ge=0,
        le=60,
        description="How far, in seconds, a probe's packets may come out of order without counting as late.",
    )
    silence_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="Seconds of wall clock without a batch after which event time goes on by the wall clock.",
    )
    compression: Literal["as the bus", "none", "lz4", "zstd", "snappy", "gzip"] = Field(
        default="lz4",
        description="Compression of what the flows agent produces. Feature rows are packed already; zstd makes "
        "them a tenth smaller than lz4 does, for a fifth less packets/s. "
        "`as the bus`: bus.compression.",
    )
    max_flows: int = Field(
        default=1 << 18,
        ge=16,
        le=1 << 26,
        description="Most open flows per probe and partition; beyond, the longest silent of a few is evicted.",
    )
    feature_files: tuple[str, ...] = Field(
        default=(),
        description="Python files with features of your own; representations name them like the others. "
        "`flowgauge feature new` writes one to start from.",
    )
    representations: tuple[RepresentationSettings, ...] = Field(
        default=DEFAULT_REPRESENTATIONS,
        min_length=1,
        description="What is computed about each flow, and when.",
    )

    path_join: Literal["off", "early", "flow"] = Field(
        default="off",
        description="Join what several probes see of the same flow, on features.path: early once each has seen its "
        "first packet, flow once it has ended at each.",
    )
    path_window_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="Most seconds between a flow's first packet at two probes: their way and their clocks.",
    )
    path_hold_s: float = Field(
        default=120.0,
        gt=0,
        le=86400,
        description="How long a flow waits to be seen by another probe, in seconds of its own probe's event time.",
    )
    path_max_flows: int = Field(
        default=1 << 16,
        ge=16,
        le=1 << 24,
        description="Most flows per partition that wait for another probe.",
    )
    probe_silence_s: float = Field(
        default=10.0,
        gt=0,
        le=86400,
        description="Seconds without a batch of a probe, while nothing waits on the bus, until it is told silent.",
    )

    services: tuple[ServiceSettings, ...] = Field(
        default=(),
        max_length=1000,
        description="Services that flows belong to, and what is collected about each.",
    )

    @property
    def computed(self) -> tuple[RepresentationSettings, ...]:
        """Return all representations: those of every flow, then what services collect of theirs."""
        own = (
            ServiceRepresentation(
                name=s.name, kind="window", features=s.collect, every_s=s.every_s, number=number
            )
            for number, s in enumerate(self.services, 1)
            if s.collect
        )
        return (*self.representations, *own)

    @property
    def path_representation(self) -> str | None:
        """Return the representation whose rows are joined over probes, None where none is."""
        return next((r.name for r in self.representations if r.kind == self.path_join), None)

    @model_validator(mode="after")
    def _names_differ(self) -> StreamsSettings:
        names = [s.name for s in self.services]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"two services are named {twice.pop()!r}")
        if self.path_join != "off" and self.path_representation is None:
            raise ValueError(f"path_join = {self.path_join} needs a representation of that kind")
        names = [r.name for r in self.computed]
        if FEATURES_PATH.removeprefix("features.") in names:
            raise ValueError(f"a representation cannot be named path: {FEATURES_PATH} holds joined flows")
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"two representations are named {twice.pop()!r}")
        return self
