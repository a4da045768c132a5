"""``flowgauge streams``: a worker that keeps flow state and emits feature records."""

from __future__ import annotations

from flowgauge import options


def command(
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Run a flows worker: packets in, feature records out, until Ctrl-C or SIGTERM.

    Start several to share the partitions. When it stops it hands its flow state over through the bus and prints
    what it counted.
    """
    from flowgauge.framing import start_framing
    from flowgauge.settings import load
    from flowgauge.workers import log_to_stderr, show_counters, waiting
    from producers.config import BusSettings
    from streams.config import StreamsSettings
    from streams.worker import run_worker

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    start_framing(effective)
    log_to_stderr()
    code, counters = run_worker(
        effective.get("streams", StreamsSettings), effective.get("bus", BusSettings), waiting
    )
    show_counters("streams", counters, as_json)
    return code
