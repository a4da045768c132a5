"""Which model is live: follows the topic ``models`` and gets each new version ready beside the one that serves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from models.packet.announce import Announcement, AnnouncementReader
from models.packet.config import PacketModelSettings
from models.packet.errors import ModelError
from models.packet.runtime import PacketModel, open_model
from models.packet.store import open_library
from producers.config import BusSettings
from producers.health import Health
from schemas.errors import BusError, FlowgaugeError

log = logging.getLogger("flowgauge")

_POLL_S = 0.2
_RETRY_S = 2.0
_FIRST_POLL_S = 0.1
_PATIENCE_S = 1.0
"""How long the first model may take before anything is said about it."""

Model = TypeVar("Model")
Ready = TypeVar("Ready", covariant=True)


@dataclass(frozen=True)
class Change(Generic[Ready]):
    """What became of an announcement: a model that is ready to serve, or why there is none."""

    title: str
    model: Ready | None = None
    problem: str = ""


class LiveModels(Protocol[Ready]):
    """Where an agent hears of new versions."""

    def poll(self) -> Change[Ready] | None:
        """Return the next change, None where there is none; never waits."""


def load(settings: PacketModelSettings, told: Announcement) -> PacketModel:
    """Load the version that was announced out of the library, try it out and fit its batches to the machine.

    The announcement's own ``uri`` is for people: what comes over the bus does not choose files on this machine.

    Raises:
        FlowgaugeError: it cannot be used.
    """
    if told.problem:
        raise ModelError(f"the announcement on the topic models cannot be read: {told.problem}")
    folder = open_library(settings.library).fetch(told.name, told.version, told.sha256)
    model = open_model(folder, settings.device, settings.threads, told.sha256)
    if (model.card.name, model.card.version) != (told.name, told.version):
        raise ModelError(f"{folder}: its card is of another model, {model.card.title}")
    if told.classes and told.classes != model.classes:
        raise ModelError(f"{folder}: its card has other classes than it was announced with")
    model.tune(settings.latency_budget_ms / 1e3, settings.max_batch)
    return model


class LiveVersions(Generic[Model]):
    """Follows one model in a thread of its own and gets its versions ready; a context manager."""

    def __init__(
        self,
        name: str,
        bus: BusSettings,
        load: Callable[[Announcement], Model],
        describe: Callable[[Model], str],
        read: Callable[[BusSettings], AnnouncementReader] = AnnouncementReader,
    ) -> None:
        """Follow the model ``name``; ``load`` gets a version ready or raises FlowgaugeError."""
        self._name, self._bus, self._load, self._describe, self._read = name, bus, load, describe, read
        self._changes: SimpleQueue[Change[Model]] = SimpleQueue()
        self._handled: Announcement | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    def poll(self) -> Change[Model] | None:
        """Return the next change, None where there is none."""
        try:
            return self._changes.get_nowait()
        except Empty:
            return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _follow(self) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                self._read_on()
            except BusError as error:
                # The worker itself finds out whether the bus is lost for good.
                if str(error) != told:
                    log.warning("%s; new versions are not seen meanwhile", error)
                told = str(error)
                self._stop.wait(_RETRY_S)

    def _read_on(self) -> None:
        newest: Announcement | None = None
        with self._read(self._bus) as reader:
            while not self._stop.is_set():
                found = reader.poll(_POLL_S)
                if found is not None and found.name == self._name:
                    newest = found
                # Of several versions on the topic only the last is worth loading.
                if newest is not None and reader.at_end:
                    if newest != self._handled:  # it comes again where the topic is read anew
                        self._changes.put(self._ready(newest))
                    newest, self._handled = None, newest

    def _ready(self, told: Announcement) -> Change[Model]:
        title = f"{told.name}/{told.version}"
        if not told.version:
            return Change(told.name, problem="it was taken off the topic models")
        began_s = time.monotonic()
        try:
            model = self._load(told)
        except FlowgaugeError as error:
            return Change(title, problem=str(error))
        except Exception as error:  # a model must not end the thread that waits for its successor
            log.exception("model %s", title)
            return Change(title, problem=f"{type(error).__name__}: {error}")
        took_s = time.monotonic() - began_s
        log.info("model %s is ready after %.1f s: %s", title, took_s, self._describe(model))
        return Change(title, model)


class LiveModel(LiveVersions[PacketModel]):
    """Follows one packet model."""

    def __init__(
        self,
        settings: PacketModelSettings,
        bus: BusSettings,
        read: Callable[[BusSettings], AnnouncementReader] = AnnouncementReader,
    ) -> None:
        super().__init__(settings.name, bus, partial(load, settings), _described, read)


def _described(model: PacketModel) -> str:
    return (
        f"{model.card.kind}, {model.card.parameters:,} parameters, {len(model.classes)} classes, "
        f"batches of {model.batch_rows} on the {model.device} by {model.engine}"
    )


def first_version(
    live: LiveModels[Model], stop: threading.Event, health: Health, missing: str
) -> Model | None:
    """Wait for a model that can be used; None where the worker is stopped before.

    Args:
        live: where versions come from.
        stop: ends the wait.
        health: is told that waiting is no fault.
        missing: what to say once where none comes.
    """
    waited_s, told = 0.0, False
    while not stop.is_set():
        change = live.poll()
        if change is not None and change.model is not None:
            return change.model
        if change is not None:
            log.error("model %s is refused: %s", change.title, change.problem)
        if not told and (change is not None or waited_s >= _PATIENCE_S):
            told = True
            log.warning("%s", missing)
        health.tick(0, 0)
        stop.wait(_FIRST_POLL_S)
        waited_s += _FIRST_POLL_S
    return None
