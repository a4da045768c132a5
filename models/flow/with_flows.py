"""Flow state and a cascade in one process: rows reach the cascade when they are made, past the bus.

A hop over the bus costs some 4 ms and as much CPU as the cascade's own work. Feature rows go to the bus as well, behind
the answers. Both agents keep what they know on ``flows.state``, the cascade first: so it never knows less than the flow
state that a worker goes on from, and leaves out the rows of messages that it has seen already.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from models.flow.agent import STAGE, CascadeAgent, input_topics
from models.flow.cascade import Cascade
from models.flow.config import CascadeSettings
from models.flow.errors import CascadeError
from models.flow.resume import Resumer
from models.packet.live import LiveModels
from producers.bus import Sink
from producers.config import BusSettings
from producers.telemetry import StageMeter
from schemas.features import FeatureBatch
from schemas.topics import PACKETS
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import Message


def topics_read(streams: StreamsSettings, cascade: Cascade) -> tuple[str, ...]:
    """Return the plain names of the topics to read for a cascade whose feature rows are made here.

    Raises:
        CascadeError: it needs a representation that is not made.
    """
    made = {f"features.{representation.name}" for representation in streams.computed}
    others = [topic for topic in input_topics(cascade) if topic not in made]
    if lacking := [topic for topic in others if topic.startswith("features.")]:
        names = ", ".join(topic.removeprefix("features.") for topic in lacking)
        raise CascadeError(
            f"cascade {cascade.title} needs the representation {names}, which streams.representations lacks"
        )
    return (PACKETS, *others)


class FlowsWithCascade:
    """Handler of ``packets``, ``labels`` and, where a tier needs them, ``payloads``."""

    def __init__(
        self,
        streams: StreamsSettings,
        settings: CascadeSettings,
        bus: BusSettings,
        sink: Sink,
        cascade: Cascade,
        live: LiveModels[Cascade],
    ) -> None:
        """Make both agents; raises SettingsError for an unknown feature, CascadeError as ``topics_read`` does."""
        self.topics = topics_read(streams, cascade)
        self._cascade_ns = 0
        """CPU time of the cascade; the rest of the process's is the flows agent's."""
        self._known = False
        """Whether the cascade has already seen the messages whose rows are gathered."""
        self._resumer = Resumer(streams.group, bus, sink, self.topics, f"{streams.group}+{settings.group}")
        self.cascade = CascadeAgent(
            settings,
            bus,
            sink,
            cascade,
            live,
            StageMeter(STAGE, "rows", settings.name, lambda: self._cascade_ns),
            self._resumer,
            (*(f"features.{representation.name}" for representation in streams.computed), *self.topics[1:]),
        )
        flows_meter = StageMeter("flows", "packets", cpu_ns=lambda: time.process_time_ns() - self._cascade_ns)
        self.flows = FlowsAgent(streams, bus, sink, flows_meter, self._on_rows)

    @property
    def meter(self) -> StageMeter:
        """What the flows agent counts about itself."""
        return self.flows.meter

    def counts(self) -> Counter[str]:
        """Return the counters of both by name."""
        return self.flows.counts() + self.cascade.counts()

    def on_message(self, message: Message) -> None:
        """Fold a packet batch in, or put payloads or a label by."""
        if message.topic != PACKETS:
            self._charged(lambda: self.cascade.on_message(message))
            return
        known = not self._resumer.is_new(PACKETS, message.partition, message.offset)
        if known != self._known:
            self.flows.on_drained()
            self._known = known
        self.flows.on_message(message)

    def on_drained(self) -> None:
        """Answer the rows made of the messages at hand, then produce them."""
        self.flows.on_drained()
        self._known = False
        self._charged(self.cascade.on_drained)

    def on_idle(self) -> bool:
        """Return that nothing was left for later."""
        return False

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Do what time alone asks of either."""
        self.flows.on_tick(waiting, away=away)
        self._charged(lambda: self.cascade.on_tick(waiting, away=away))

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Take over the flow state and the flows that wait from the workers before."""
        self.flows.on_assigned(partitions)
        self.cascade.on_assigned(partitions)

    def flush(self) -> None:
        """Bring all that was made to the bus, then both states."""
        self.on_drained()
        self._charged(self.cascade.save)
        self.flows.flush()

    def hand_over(self) -> None:
        """Leave both states to the next worker."""
        self.on_drained()
        self._charged(self.cascade.hand_over)
        self.flows.hand_over()

    def _on_rows(self, batches: Sequence[FeatureBatch]) -> None:
        if batches and not self._known:
            self._charged(lambda: self._answer(batches))

    def _answer(self, batches: Sequence[FeatureBatch]) -> None:
        wanted, now_ns = input_topics(self.cascade.cascade), time.time_ns()
        for batch in batches:
            if f"features.{batch.representation}" in wanted:
                self.cascade.on_rows(replace(batch, flows_sent_time_ns=now_ns))
        self.cascade.on_drained()

    def _charged(self, step: Callable[[], None]) -> None:
        """Run a step of the cascade at its expense."""
        began_ns = time.thread_time_ns()
        try:
            step()
        finally:
            self._cascade_ns += time.thread_time_ns() - began_ns
