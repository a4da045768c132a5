"""Settings of the online model agent. Light on purpose: reading the settings needs no River."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from streams.config import WorkerSettings

ClassifierName = Literal[
    "mondrian_forest",
    "adaptive_random_forest",
    "hoeffding_adaptive_tree",
    "softmax_regression",
    "naive_bayes",
    "ensemble",
]


class OnlineSettings(WorkerSettings):
    """The online model: what it predicts on, how it learns, and the bounds of what it remembers."""

    group: str = Field(
        default="flowgauge-models", min_length=1, description="Consumer group of the model agents."
    )
    name: str = Field(
        default="online",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$",
        description="Name of the model in its predictions; a part of their ids.",
    )
    representations: tuple[str, ...] = Field(
        default=("early", "flow"),
        min_length=1,
        description="Representations predicted on, each by a classifier of its own; topics features.<name>.",
    )
    classifier: ClassifierName = Field(
        default="mondrian_forest",
        description="mondrian_forest: best from few labels; adaptive_random_forest: where what classes look "
        "like drifts, slow to learn; hoeffding_adaptive_tree: fast and follows drift, wants thousands of "
        "labels; softmax_regression: fast and smallest; naive_bayes: cheapest to learn; "
        "ensemble: the two forests vote, at the price of both.",
    )
    parameters: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Parameters of the classifier that differ from its defaults."
    )
    seed: int = Field(default=1, ge=0, le=2**31 - 1, description="Seed of the classifier's randomness.")
    label_wait_s: float = Field(
        default=600.0,
        gt=0,
        le=604800,
        description="How long features wait for a label, and a label for its flow, in s of event time.",
    )
    max_waiting_flows: int = Field(
        default=200_000, ge=1, le=1 << 24, description="Most flows remembered for their label, in flows."
    )
    max_rows_per_flow: int = Field(
        default=64, ge=1, le=65536, description="Most rows of one flow that wait for its label, in rows."
    )
    max_classes: int = Field(
        default=256, ge=2, le=65536, description="Most classes learned; labels of further ones are refused."
    )
    score_by_depth: tuple[str, ...] = Field(
        default=("early",), description="Representations whose scores are told apart by the depth of the row."
    )
    score_window_labels: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Labels that the scores of late look back on, in labels.",
    )

    score_classes: int = Field(
        default=32,
        ge=0,
        le=4096,
        description="Classes whose scores are told on telemetry.cost for each group, the most frequent ones.",
    )
    drift: bool = Field(
        default=True, description="Watch for drift: ADWIN on the errors, KSWIN on some inputs; see telemetry."
    )
    drift_features: int = Field(
        default=3,
        ge=0,
        le=64,
        description="Features of each representation, from the first on, that are watched beside the confidence.",
    )
    drift_sample_rows: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="One row in so many is looked at for drift of the inputs.",
    )
    max_model_bytes: int = Field(
        default=1 << 29,
        ge=1 << 16,
        description="Most memory of the classifiers of all representations, in bytes; one that has its share "
        "goes on predicting and learns no more.",
    )
    state_dir: str = Field(
        default="",
        description="Folder where the model's state is kept; empty: flowgauge/models in XDG_STATE_HOME, or in "
        "~/.local/state.",
    )
    checkpoint_interval_s: float = Field(
        default=30.0,
        ge=0,
        le=86400,
        description="Time between two copies of the model's state on disk, in seconds; 0: none is kept.",
    )

    @field_validator("representations")
    @classmethod
    def _representations_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a representation is listed twice")
        return names

    @property
    def label_wait_ns(self) -> int:
        """Return the label wait in ns."""
        return round(self.label_wait_s * 1e9)
