"""``flowgauge bench serve``: a cascade served at a set rate of new flows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options


def command(
    captures: Annotated[
        list[str] | None,
        typer.Argument(metavar="CAPTURE…", help="Captures with labels; without any, the shipped capture."),
    ] = None,
    rate: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="N",
            help="New flows a second, 200 to 100,000; default: 20,000. Several: a run for each.",
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=1.0, max=3600.0, metavar="S", help="For how long flows begin, in seconds.")
    ] = 20.0,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Labels of each capture, in their order. Default: NAME.labels.csv beside.",
        ),
    ] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help="Workers; default: 1. Several: runs with each.",
        ),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=1024, metavar="N", help="Partitions; default: as many as workers."),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=2, max=64, metavar="N", help="Packets that the slow tier waits for.")
    ] = 10,
    wait: Annotated[
        float,
        typer.Option(min=0.1, max=100.0, metavar="S", help="Longest wait for them, in s of event time."),
    ] = 5.0,
    first_packets: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000_000,
            metavar="N",
            help="Probes send the first N packets of a flow, see packets.first_packets; 0: all.",
        ),
    ] = 0,
    linger: Annotated[
        float,
        typer.Option(
            min=0.5, max=1000.0, metavar="MS", help="Time between two batches of a partition, in ms."
        ),
    ] = 5.0,
    apart: Annotated[
        bool,
        typer.Option("--apart", help="Flow state and cascade in processes of their own, --workers of each."),
    ] = False,
    bus: Annotated[
        str | None,
        typer.Option("--bus", metavar="HOST:PORT", help="Use this broker; without it one is started."),
    ] = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Send flows at a rate through Kafka and `flowgauge cascade serve --with-flows`; tell what came of it in one table.

    A small cascade is trained on half of the labelled flows of the captures, a forest at packet 1 and one at packet
    `--depth`. The other half is sent again and again, each time under addresses of its own, with the packets' own
    sizes and gaps. Latency is the time from the sending of the packet that a flow's final answer was made on until
    that answer can be read by another process; flows that waited in vain count with all of their wait. A flow without
    a final answer is a miss, and an error in F1; where there is one, or a flow has two different ones, the exit code
    is 1. With several rates or numbers of workers there is a run for each and one line for each run; JSON has them
    under `runs`.
    """
    from flowgauge.bench.serve.run import ServeOptions, serve
    from flowgauge.settings import load

    rates, numbers = rate or [20_000], workers or [1]
    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    passed_on = ["--config", str(config)] if config else []
    for assignment in settings or ():
        passed_on += ["--set", assignment]
    first = ServeOptions(
        rate=rates[0],
        seconds=duration,
        workers=numbers[0],
        partitions=partitions or 0,
        depths=(1, depth),
        wait_s=wait,
        first_packets=first_packets,
        linger_ms=linger,
        apart=apart,
        external_bus=bus is not None,
        passed_on=tuple(passed_on),
    )
    runs = [replace(first, rate=some, workers=many) for many in numbers for some in rates]
    return serve(effective, captures or (), [str(path) for path in labels or ()], runs, as_json)
