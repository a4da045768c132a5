"""A set of features made ready to run over packet columns, without settings file and bus."""

from __future__ import annotations

from collections.abc import Sequence

from producers.batcher import Batcher
from schemas.packets import Extra
from streams.config import Kind, RepresentationSettings, StreamsSettings
from streams.partition import Partition
from streams.plan import Plan
from streams.probe_flows import ProbeFlows


class FeatureEngine:
    """One representation of chosen features and its kernel.

    For measuring: decode with ``capture.blocks(extra=engine.needs)``, batch with ``engine.batcher(n)``, and apply
    each batch's columns to the ``engine.table()`` of its partition, which yields the rows.
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        kind: Kind = "window",
        every_s: float = 10.0,
        depth: int = 8,
        feature_files: Sequence[str] = (),
        settings: StreamsSettings | None = None,
    ) -> None:
        """Compile the kernel, or load it; raises SettingsError for an unknown or unusable feature."""
        representation = RepresentationSettings(
            name=kind, kind=kind, features=tuple(features), every_s=every_s, depth=depth
        )
        self.features = tuple(features)
        self.plan = Plan(
            (settings or StreamsSettings()).model_copy(
                update={
                    "representations": (representation,),
                    "feature_files": tuple(feature_files),
                    "services": (),
                }
            )
        )

    @property
    def needs(self) -> Extra:
        """Return the packet columns that the features need beyond the usual ones."""
        return self.plan.needs

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the features' columns."""
        return self.plan.representations[0].names

    @property
    def state_bytes(self) -> int:
        """Return the bytes of a flow's row in the table, the key and counts included."""
        return self.plan.row_dtype.itemsize

    def batcher(self, partitions: int) -> Batcher:
        """Return a batcher whose batches hold what the features need."""
        return Batcher(partitions, extra=self.needs)

    def table(self, probe: str = "engine", max_flows: int = 1 << 16) -> ProbeFlows:
        """Return an empty flow table; tables of one engine share its buffers, so they serve one thread."""
        return ProbeFlows(self.plan, probe, max_flows)

    def partitions(self, count: int) -> list[Partition]:
        """Return partitions that take packet batches and give feature batches."""
        return [Partition(self.plan, number) for number in range(count)]
