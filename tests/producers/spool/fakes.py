"""A bus that can be away, refuse or break, and a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import KafkaError

from producers.bus import Done
from producers.spool.config import SpoolSettings
from producers.spool.sink import SpoolSink
from schemas.errors import BusError


class Sent(NamedTuple):
    topic: str
    value: bytes
    partition: int | None
    key: str | None
    items: int


class FakeBus:
    """Acknowledges when it is polled, while it is up."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[tuple[Sent, Done | None]] = []
        self.sent_bytes = 0
        self.broken = ""

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None,
        items: int = 0, done: Done | None = None,
    ) -> None:  # fmt: skip
        if self._world.refuses_at_once:
            raise BusError("refused at once")
        self._waiting.append((Sent(topic, value, partition, key, items), done))

    def check(self) -> None:
        if self.broken:
            raise BusError(self.broken)
        self.deliver()

    def deliver(self) -> None:
        """Go on, as librdkafka's own threads do."""
        if self.broken or not self._world.up:
            return
        waiting, self._waiting = self._waiting, []
        for message, done in waiting:
            code = self._world.fails(message)
            if code is None:
                self._world.arrived.append(message)
            if done is not None:
                done(None if code is None else KafkaError(code))

    def purge(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            if done is not None:
                done(KafkaError(KafkaError._PURGE_QUEUE))

    @property
    def outstanding(self) -> int:
        return len(self._waiting)


class World:
    """The bus, the clock, and what was told."""

    def __init__(self) -> None:
        self.up = True
        self.refuses_at_once = False
        self.fails: Callable[[Sent], int | None] = lambda message: None
        self.arrived: list[Sent] = []
        self.now_s = 0.0
        self.told: list[str] = []
        self.buses: list[FakeBus] = []

    def make_bus(self) -> FakeBus:
        self.buses.append(FakeBus(self))
        return self.buses[-1]

    def sink(self, path: object, **settings: object) -> SpoolSink:
        chosen = SpoolSettings(path=str(path), **settings)  # type: ignore[arg-type]
        return SpoolSink(
            chosen, self.make_bus, self.told.append, clock=lambda: self.now_s,
            wall_ns=lambda: 10**18 + int(self.now_s * 1e9), syncs=False,
        )  # fmt: skip

    def later(self, sink: SpoolSink, seconds: float) -> None:
        """Let time pass, in turns of the stage's loop; producers that were left go on as well, if they can."""
        for _ in range(10):
            for bus in self.buses[:-1]:
                bus.deliver()
            self.now_s += seconds / 10
            sink.check()

    def values(self, partition: int | None = None) -> list[bytes]:
        return [m.value for m in self.arrived if partition is None or m.partition == partition]
