"""Whether everything in the demo adds up: each hop's count against the next one's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowgauge.costs import StageCost
from flowgauge.demo.tally import Tally
from producers.summary import ReplaySummary


@dataclass(frozen=True)
class Check:
    """Two counts that must be equal."""

    what: str
    wanted: int
    found: int

    @property
    def holds(self) -> bool:
        """Return whether they are."""
        return self.wanted == self.found

    @property
    def problem(self) -> str:
        """Return the difference in one line."""
        return f"{self.what}: {self.found}, not {self.wanted}"


def checks(replay: ReplaySummary, tally: Tally, representations: Sequence[str], missing: int) -> list[Check]:
    """Return what must hold at the end of a demo that nobody interrupted.

    Args:
        replay: what was sent.
        tally: what was seen on the bus.
        representations: those that the model predicts on.
        missing: messages that the watcher found missing.
    """
    flows = tally.costs.get("flows", StageCost("packets"))
    models = tally.costs.get("models", StageCost("rows"))
    rows = sum(tally.rows[name] for name in representations)
    sent = replay.total("packets_sent")
    return [
        Check("packets acknowledged by the broker", sent, replay.packets_acked),
        Check("packets in the flow table", sent, flows.items_out),
        Check("packet batches missing in a sequence", 0, flows.counters["batches_missing"]),
        Check("feature rows taken up by the model", rows, models.items_in),
        Check("predictions", rows, tally.predictions),
        Check("labels on the bus", replay.total("labels"), tally.labels),
        Check("messages missing between offsets", 0, missing),
        Check("dead letters", 0, len(tally.dead_letters)),
        *(
            Check(f"{hop.unit} from {hop.source} into {hop.target}, by their telemetry", hop.sent, hop.taken)
            for hop in tally.pipeline.hops()
        ),
    ]
