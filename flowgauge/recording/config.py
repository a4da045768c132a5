"""Settings of the recorder."""

from __future__ import annotations

from pydantic import Field

from producers.config import MetricsSettings


class RecordSettings(MetricsSettings):
    """How topics are recorded as Parquet."""

    topics: tuple[str, ...] = Field(
        default=("features.*", "predictions.*", "telemetry.*", "labels"),
        min_length=1,
        description="Topics to record, without the prefix; * stands for anything.",
    )
    roll_rows: int = Field(
        default=1_000_000, ge=1, description="Rows of a partition after which its files are written."
    )
    roll_s: float = Field(
        default=300.0, gt=0, description="Seconds after which what came of a partition is written, in s."
    )
    roll_mb: int = Field(
        default=64, ge=1, le=65_536, description="Memory a partition's rows may take until then, in MiB."
    )
    memory_mb: int = Field(
        default=256,
        ge=2,
        le=1 << 20,
        description="Memory all rows may take, in MiB; beyond it the largest partition is written early.",
    )
    telemetry_interval_s: float = Field(
        default=1.0, ge=0, description="Time between two records on telemetry.cost, in s; 0: none."
    )
