"""The bus of a live probe: straight, or behind a queue on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flowgauge.interrupt import Stop
from flowgauge.workers import waiting
from producers.bus import BusProducer
from producers.config import BusSettings
from producers.probe.log import LOGGER
from producers.spool.config import SpoolSettings
from producers.spool.open import open_spool
from producers.spool.sink import SpoolSink
from schemas.errors import BusError

log = logging.getLogger(LOGGER)
_ASK_S = 5.0
"""How long the bus may take to answer a probe with a spool before that is told."""

Require = Callable[[BusProducer], None]
"""Raises BusError unless the bus has the topics."""


@contextmanager
def probe_bus(
    spool: SpoolSettings, bus: BusSettings, require: Require, stop: Stop
) -> Iterator[BusProducer | SpoolSink]:
    """Give the bus.

    Raises:
        BusError: without a spool, no broker or one that lacks a topic.
        SettingsError, InputError: the spool cannot be used.
    """
    if not spool.path:
        sink = BusProducer(bus)
        if sink.connect(stop=stop.event, on_wait=waiting):
            require(sink)
        yield sink
        return
    spooling = open_spool(spool, bus, lambda line: log.warning("%s", line))
    try:
        if found := spooling.counts["recovered_messages"]:
            log.info(
                "spool %s: %d messages with %d packets are left from before",
                spool.path, found, spooling.counts["recovered_packets"],
            )  # fmt: skip
        # Packets are coming in already: nobody waits for the bus.
        threading.Thread(target=_ask, args=(spool, bus, require, stop), name="ask-bus", daemon=True).start()
        yield spooling
    finally:
        spooling.close()


def _ask(spool: SpoolSettings, bus: BusSettings, require: Require, stop: Stop) -> None:
    """Log what is wrong with the bus, if anything is; packets go to the spool until it is mended."""
    asking = BusProducer(bus.model_copy(update={"connect_timeout_s": min(bus.connect_timeout_s, _ASK_S)}))
    try:
        if asking.connect(stop=stop.event):
            require(asking)
    except BusError as error:
        log.warning("%s; packets go to the spool %s meanwhile", error, spool.path)


def of_process(spool: SpoolSettings, number: int, processes: int) -> SpoolSettings:
    """Return the spool of one of several processes: each has a folder of its own."""
    if not spool.path or processes == 1:
        return spool
    return spool.model_copy(
        update={
            "path": str(Path(spool.path) / f"process-{number}"),
            "max_mbytes": max(1, spool.max_mbytes // processes),
        }
    )
