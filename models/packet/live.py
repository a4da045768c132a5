"""Which model is live: follows the topic ``models`` and gets each new version ready beside the one that serves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Protocol, Self

from models.packet.announce import Announcement, AnnouncementReader
from models.packet.config import PacketModelSettings
from models.packet.errors import ModelError
from models.packet.library import Library
from models.packet.runtime import PacketModel, open_model
from producers.config import BusSettings
from schemas.errors import BusError, FlowgaugeError

log = logging.getLogger("flowgauge")

_POLL_S = 0.2
_RETRY_S = 2.0


@dataclass(frozen=True)
class Change:
    """What became of an announcement: a model that is ready to serve, or why there is none."""

    title: str
    model: PacketModel | None = None
    problem: str = ""


class LiveModels(Protocol):
    """Where the agent hears of new versions."""

    def poll(self) -> Change | None:
        """Return the next change, None where there is none; never waits."""


def load(settings: PacketModelSettings, told: Announcement) -> PacketModel:
    """Load the version that was announced out of the library, try it out and fit its batches to the machine.

    The announcement's own ``uri`` is for people: what comes over the bus does not choose files on this machine.

    Raises:
        FlowgaugeError: it cannot be used.
    """
    if told.problem:
        raise ModelError(f"the announcement on the topic models cannot be read: {told.problem}")
    folder = Library(settings.library).folder(told.name, told.version)
    model = open_model(folder, settings.device, settings.threads, told.sha256)
    if (model.card.name, model.card.version) != (told.name, told.version):
        raise ModelError(f"{folder}: its card is of another model, {model.card.title}")
    if told.classes and told.classes != model.classes:
        raise ModelError(f"{folder}: its card has other classes than it was announced with")
    model.tune(settings.latency_budget_ms / 1e3, settings.max_batch)
    return model


class LiveModel:
    """Follows one model in a thread of its own; a context manager."""

    def __init__(
        self,
        settings: PacketModelSettings,
        bus: BusSettings,
        read: Callable[[BusSettings], AnnouncementReader] = AnnouncementReader,
    ) -> None:
        self._settings, self._bus, self._read = settings, bus, read
        self._changes: SimpleQueue[Change] = SimpleQueue()
        self._handled: Announcement | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    def poll(self) -> Change | None:
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
                if found is not None and found.name == self._settings.name:
                    newest = found
                # Of several versions on the topic only the last is worth loading.
                if newest is not None and reader.at_end:
                    if newest != self._handled:  # it comes again where the topic is read anew
                        self._changes.put(self._ready(newest))
                    newest, self._handled = None, newest

    def _ready(self, told: Announcement) -> Change:
        title = f"{told.name}/{told.version}"
        if not told.version:
            return Change(told.name, problem="it was taken off the topic models")
        began_s = time.monotonic()
        try:
            model = load(self._settings, told)
        except FlowgaugeError as error:
            return Change(title, problem=str(error))
        except Exception as error:  # a model must not end the thread that waits for its successor
            log.exception("model %s", title)
            return Change(title, problem=f"{type(error).__name__}: {error}")
        log.info(
            "model %s is ready after %.1f s: %s, %s parameters, %d classes, batches of %d on the %s",
            title,
            time.monotonic() - began_s,
            model.card.kind,
            f"{model.card.parameters:,}",
            len(model.classes),
            model.batch_rows,
            model.device,
        )
        return Change(title, model)
