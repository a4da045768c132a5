"""Settings of the cascade worker. Light on purpose: reading the settings needs no ONNX Runtime."""

from __future__ import annotations

from pydantic import Field

from streams.config import WorkerSettings


class CascadeSettings(WorkerSettings):
    """The cascade worker: which cascade it serves, how long flows wait, when it escalates less."""

    group: str = Field(
        default="flowgauge-cascade",
        min_length=1,
        description="Consumer group of the cascade workers; the cascade's name is put behind it.",
    )
    name: str = Field(
        default="flows",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$",
        description="Name of the cascade to serve: the version of it that the topic models says is live.",
    )
    library: str = Field(
        default="",
        description="Folder of published models, NAME/VERSION/, or its URL in an object store, such as "
        "s3://bucket/models; empty: flowgauge/models in XDG_DATA_HOME, or in ~/.local/share.",
    )
    wait_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="How long a flow waits for the packets of a deeper tier before its best answer so far is final, "
        "in s of event time; 0: as long as the cascade was tuned for.",
    )
    silence_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds of wall clock beyond that wait after which a flow is answered although its probe's event "
        "time stands still.",
    )
    max_waiting_flows: int = Field(
        default=1 << 16,
        ge=1,
        le=1 << 24,
        description="Most flows of a partition that wait for further packets, in flows; beyond, the fast answer is "
        "final at once.",
    )
    max_ahead_bytes: int = Field(
        default=1 << 27,
        ge=1 << 16,
        le=1 << 40,
        description="Most memory for rows that come before their flow waits for them, as payloads do, in octets; "
        "beyond, the oldest are dropped, and counted.",
    )
    max_flows: int = Field(
        default=1 << 18,
        ge=16,
        le=1 << 26,
        description="Most flows of a partition that are remembered, for repeated rows and late labels, in flows.",
    )
    provisional: bool = Field(
        default=True, description="Publish what is known of flows that wait, marked as not final."
    )
    unknown: bool = Field(
        default=True,
        description="Answer `unknown` where confidence is below the cascade's floor or a flow is unlike all it learned "
        "from; else its likeliest class.",
    )
    max_batch: int = Field(
        default=4096, ge=1, le=1 << 16, description="Most rows in one run of a tier's model, in rows."
    )
    latency_target_ms: float = Field(
        default=50.0,
        ge=0,
        le=60_000,
        description="Nine in ten answers shall leave within so many ms of their packet's sending: while they do not, "
        "less flows escalate. 0: thresholds stay as tuned.",
    )
    max_lag_messages: int = Field(
        default=200,
        ge=1,
        le=1 << 30,
        description="Messages waiting on the bus beyond which less flows escalate, whatever the latency.",
    )
    score_window_labels: int = Field(
        default=1000, ge=1, le=1_000_000, description="Labels that scores look back on, in labels."
    )
    drift_rows: int = Field(
        default=2000,
        ge=0,
        le=1_000_000,
        description="Rows of a tier that are held against what it learned from at a time, in rows; 0: no watch for "
        "drift.",
    )
    drift_limit: float = Field(
        default=0.25,
        gt=0,
        le=100,
        description="Population stability index beyond which a distribution counts as another; 0.25 is usual.",
    )
