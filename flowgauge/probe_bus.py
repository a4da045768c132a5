"""The bus of a live probe: straight, or behind a queue on disk."""

from __future__ import annotations

import logging
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
_ASK_S = 2.0
"""How long a probe with a spool waits for the bus at its start."""

Require = Callable[[BusProducer], None]
"""Raises BusError unless the bus has the topics."""


@contextmanager
def probe_bus(
    spool: SpoolSettings, bus: BusSettings, require: Require, stop: Stop
) -> Iterator[BusProducer | SpoolSink]:
    """Give the bus.

    Raises:
        BusError: without a spool, no broker; or one that lacks a topic.
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
        _ask(spool, bus, require, stop)
        yield spooling
    finally:
        spooling.close()


def _ask(spool: SpoolSettings, bus: BusSettings, require: Require, stop: Stop) -> None:
    """Look whether the bus has the topics, if it is there: nobody waits for it."""
    asking = BusProducer(bus.model_copy(update={"connect_timeout_s": min(bus.connect_timeout_s, _ASK_S)}))
    try:
        is_there = asking.connect(stop=stop.event)
    except BusError as error:
        log.warning("%s; packets go to the spool %s meanwhile", error, spool.path)
        return
    if is_there:
        require(asking)


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
