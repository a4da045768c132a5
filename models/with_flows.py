"""Flow state and a model in one process: rows reach the model when they are made, past the bus.

A hop over the bus costs some 4 ms, and about as much CPU as a model's own work. Feature rows go to the bus as well,
behind the answers. Both agents keep what they know by their own rules, the model first: so it never knows less than the
flow state that a worker goes on from.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from producers.bus import Sink
from producers.config import BusSettings
from producers.telemetry import StageMeter
from schemas.errors import SettingsError
from schemas.features import FeatureBatch
from schemas.topics import PACKETS
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import Handler, Later, Message


class RowsHandler(Handler, Protocol):
    """A model's handler that takes rows also from this process, put by for ``on_drained`` as messages are."""

    def counts(self) -> Counter[str]:
        """Return all counters by name."""

    def wants(self) -> Sequence[str]:
        """Return the plain names of the topics whose messages it can use now."""

    def is_new(self, message: Message) -> bool:
        """Return whether the rows made of a message of ``packets`` are news, and take note of it."""

    def on_rows(self, batch: FeatureBatch) -> None:
        """Take rows that did not come over the bus."""


Model = TypeVar("Model", bound=RowsHandler)


class CpuShare:
    """CPU time of a part of this process, and of the rest; both as clocks for ``StageMeter``."""

    def __init__(self) -> None:
        self._charged_ns: Counter[int] = Counter()
        """By thread, so that each writes its own."""

    def part_ns(self) -> int:
        """Return what the part took so far."""
        return sum(list(self._charged_ns.values()))

    def rest_ns(self) -> int:
        """Return what all else took so far."""
        return time.process_time_ns() - self.part_ns()

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge what this thread does meanwhile to the part."""
        began_ns = time.thread_time_ns()
        try:
            yield
        finally:
            self._charged_ns[threading.get_ident()] += time.thread_time_ns() - began_ns


def topics_read(streams: StreamsSettings, wanted: Sequence[str], model: str) -> tuple[str, ...]:
    """Return the plain names of the topics to read where feature rows are made here.

    Args:
        streams: what is made.
        wanted: the topics that a model reads.
        model: what it is called.

    Raises:
        SettingsError: it needs a representation that is not made.
    """
    made = made_topics(streams)
    others = [topic for topic in wanted if topic not in made]
    if lacking := [topic for topic in others if topic.startswith("features.")]:
        names = ", ".join(topic.removeprefix("features.") for topic in lacking)
        raise SettingsError(f"{model} needs the representation {names}, which streams.representations lacks")
    return (PACKETS, *others)


def made_topics(streams: StreamsSettings) -> tuple[str, ...]:
    """Return the plain names of the feature topics that a flows agent writes."""
    return tuple(f"features.{representation.name}" for representation in streams.computed)


class FlowsWithModel(Generic[Model]):
    """Handler of ``packets`` and of what else the model reads beside feature rows."""

    def __init__(
        self,
        streams: StreamsSettings,
        bus: BusSettings,
        sink: Sink,
        model: Model,
        topics: Sequence[str],
        share: CpuShare,
        states: Sink | None = None,
    ) -> None:
        """Make the flows agent.

        Args:
            streams: its settings.
            bus: where rows go.
            sink: takes them there.
            model: gets them before.
            topics: what is read, as ``topics_read`` tells.
            share: tells the model's CPU time from the flows agent's.
            states: takes copies of the flow state to the bus, as the flows agent says.

        Raises:
            SettingsError: an unknown feature.
        """
        self.model, self.topics = model, tuple(topics)
        self._share = share
        self._known = False
        """Whether the model has already seen the messages whose rows are gathered."""
        meter = StageMeter("flows", "packets", cpu_ns=share.rest_ns)
        self.flows = FlowsAgent(streams, bus, sink, meter, self._on_rows, states)

    @property
    def meter(self) -> StageMeter:
        """What the flows agent counts about itself."""
        return self.flows.meter

    def counts(self) -> Counter[str]:
        """Return the counters of both by name."""
        return self.flows.counts() + self.model.counts()

    def on_message(self, message: Message) -> None:
        """Fold a packet batch in, or give the model what is its."""
        if message.topic != PACKETS:
            with self._share.charged():
                self.model.on_message(message)
            return
        known = not self.model.is_new(message)
        if known != self._known:
            self.flows.on_drained()
            self._known = known
        self.flows.on_message(message)

    def on_drained(self) -> None:
        """Have the rows made of the messages at hand answered, then produce them."""
        self.flows.on_drained()
        self._known = False
        with self._share.charged():
            self.model.on_drained()

    def on_idle(self) -> bool:
        """Let the model do what can wait."""
        with self._share.charged():
            return self.model.on_idle()

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Do what time alone asks of either."""
        self.flows.on_tick(waiting, away=away)
        with self._share.charged():
            self.model.on_tick(waiting, away=away)

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Take over what the workers before left."""
        self.flows.on_assigned(partitions)
        self.model.on_assigned(partitions)

    def before_commit(self) -> Later:
        """Bring all that was made to the bus, and copy both states, the model's first."""
        self.on_drained()
        with self._share.charged():
            of_model = self.model.before_commit()
        of_flows = self.flows.before_commit()

        def both() -> None:
            with self._share.charged():
                of_model()
            of_flows()

        return both

    def hand_over(self) -> None:
        """Leave the states to the next worker."""
        self.on_drained()
        with self._share.charged():
            self.model.hand_over()
        self.flows.hand_over()

    def _on_rows(self, batches: Sequence[FeatureBatch]) -> None:
        if not batches or self._known:
            return
        with self._share.charged():
            wanted, now_ns = self.model.wants(), time.time_ns()
            for batch in batches:
                if f"features.{batch.representation}" in wanted:
                    self.model.on_rows(replace(batch, flows_sent_time_ns=now_ns))
            self.model.on_drained()
