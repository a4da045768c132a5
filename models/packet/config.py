"""Settings of the packet model worker. Light on purpose: reading the settings needs no ONNX Runtime."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streams.config import WorkerSettings


class PacketModelSettings(WorkerSettings):
    """The packet model worker: which model it serves, how it batches packets, what it remembers of flows."""

    group: str = Field(
        default="flowgauge-packet-models",
        min_length=1,
        description="Consumer group of the packet model workers; the model's name is put behind it.",
    )
    name: str = Field(
        default="packets",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$",
        description="Name of the model to serve: the version of it that the topic models says is live.",
    )
    library: str = Field(
        default="",
        description="Folder of published models, NAME/VERSION/, or its URL in an object store, such as "
        "s3://bucket/models; empty: flowgauge/models in XDG_DATA_HOME, or in ~/.local/share.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="Where the model runs; without a CUDA device it runs on the CPU and says so.",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="CPU threads of one answer; more workers use more cores better, more threads answer sooner.",
    )
    latency_budget_ms: float = Field(
        default=5.0,
        ge=0,
        le=1000,
        description="Longest that a packet waits for others to share a run of the model, and that a run may take, "
        "in ms.",
    )
    max_batch: int = Field(
        default=256, ge=1, le=8192, description="Most packets in one run of the model, in packets."
    )
    probabilities: bool = Field(
        default=False, description="Publish the probability of every class with each prediction."
    )
    votes: bool = Field(
        default=True, description="Publish what the packets of a flow say together, on predictions.flow."
    )
    max_flows: int = Field(
        default=65_536, ge=1, le=1 << 24, description="Most flows whose packets are added up, in flows."
    )
    flow_idle_s: float = Field(
        default=120.0,
        gt=0,
        le=86400,
        description="Seconds of wall clock after which a flow without packets is forgotten.",
    )
