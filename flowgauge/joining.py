"""Rows of a feature topic joined over probes while they are read, as the flows agent joins them."""

from __future__ import annotations

from typing import Any

from schemas.errors import SettingsError
from schemas.features import decode_feature_batch
from streams.config import StreamsSettings
from streams.paths import PathJoin, PathKind


class Joiner:
    """Joins the messages of one topic, by partition."""

    def __init__(self, topic: str, streams: StreamsSettings) -> None:
        """Join the rows of ``features.<representation>``; raises SettingsError where they are not of a whole flow."""
        name = topic.removeprefix("features.")
        shape = next((r for r in streams.representations if r.name == name), None)
        if shape is None or shape.kind == "window":
            fit = ", ".join(f"features.{r.name}" for r in streams.representations if r.kind != "window")
            raise SettingsError(f"--join: {topic} has no rows of whole flows; {fit or 'no topic'} has")
        self._kind: PathKind = "flow" if shape.kind == "flow" else "early"
        self._depth = min(shape.row_depths) if shape.kind == "early" else 1
        self._streams = streams
        self._joins: dict[int, PathJoin] = {}

    def records(self, partition: int, data: bytes) -> tuple[str, list[dict[str, Any]]]:
        """Return the schema's name and the records that a message completes.

        Raises:
            CodecError: not a feature batch.
        """
        batch = decode_feature_batch(data)
        join = self._joins.get(partition)
        if join is None:
            streams = self._streams
            window_ns, hold_ns = (round(s * 1e9) for s in (streams.path_window_s, streams.path_hold_s))
            join = PathJoin(self._kind, window_ns, hold_ns, streams.path_max_flows, self._depth)
            self._joins[partition] = join
        return "FlowPath", join.add(batch)
