"""``flowgauge models``: a worker that predicts on feature records and learns from labels."""

from __future__ import annotations

from flowgauge import options


def command(
    with_flows: options.WithFlows = False,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Run a model worker: feature records and labels in, predictions out, until Ctrl-C or SIGTERM.

    When it stops it prints what it counted and how well it predicted.

    With --with-flows it takes the place of a flows worker (`flowgauge streams`, in the same group): it reads packets,
    predicts on the rows that it makes of them, and publishes the rows as well.
    """
    from flowgauge.framing import start_framing
    from flowgauge.settings import load
    from flowgauge.workers import log_to_stderr, show_counters, waiting
    from models.online.config import OnlineSettings
    from models.online.worker import run_worker
    from producers.config import BusSettings
    from streams.config import StreamsSettings

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    start_framing(effective)
    log_to_stderr()
    code, counters, learned = run_worker(
        effective.get("models", OnlineSettings),
        effective.get("bus", BusSettings),
        waiting,
        effective.get("streams", StreamsSettings) if with_flows else None,
    )
    show_counters("models", counters, as_json, learned)
    return code
