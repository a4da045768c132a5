"""A spool before a real bus, and what it tells telemetry."""

from __future__ import annotations

from producers.bus import BusProducer
from producers.config import BusSettings
from producers.spool.config import SpoolSettings
from producers.spool.sink import SpoolSink, Tell

_MOST_KBYTES = 2_097_151
_DROPS = ("spool_full", "spool_failed", "spool_corrupt", "refused")


def patient(bus: BusSettings, spool: SpoolSettings) -> BusSettings:
    """Return how a producer behind a spool is set up: it never gives up, and its queue never is full."""
    return bus.model_copy(
        update={
            "queue_kbytes": min(2 * spool.memory_kbytes + 4096, _MOST_KBYTES),
            "client": {**bus.client, "message.timeout.ms": "0"},
        }
    )


def open_spool(settings: SpoolSettings, bus: BusSettings, tell: Tell) -> SpoolSink:
    """Open a spool before the bus.

    Raises:
        SettingsError: the folder cannot be used, or another process has it.
        InputError: it holds segments of another version.
        BusError: the bus cannot be set up so.
    """
    chosen = patient(bus, settings)
    return SpoolSink(settings, lambda: BusProducer(chosen), tell)


def drops(sink: SpoolSink) -> dict[str, int]:
    """Return the packets dropped since the start, by reason."""
    return {reason: sink.counts[f"{reason}_packets"] for reason in _DROPS}


def events(sink: SpoolSink) -> dict[str, int]:
    """Return other counts since the start; ``dropped_partition_N`` are packets of partition N dropped."""
    counted = {name: n for name, n in sink.counts.items() if name.removesuffix("_packets") not in _DROPS}
    dropped = {f"dropped_partition_{p}": n for p, n in sorted(sink.dropped_by_partition.items())}
    return {**counted, **dropped}


def gauges(sink: SpoolSink) -> dict[str, float]:
    """Return how much is on disk, and for how long the oldest of it has waited."""
    return {"spool_bytes": float(sink.spooled_bytes), "spool_age_s": sink.age_s}
