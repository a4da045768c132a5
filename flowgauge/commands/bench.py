"""``flowgauge bench``: what each stage does on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from flowgauge import options


def command(
    captures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CAPTURE…",
            help="pcap or pcapng files, also .gz and .zst, read as one; without any, the shipped capture.",
        ),
    ] = None,
    stages: Annotated[
        str, typer.Option(metavar="STAGE,…", help="What to measure.")
    ] = "decode,flows,encode,agent,bus,state",
    peers: Annotated[
        bool, typer.Option("--peers", help="Also measure NFStream and dpkt on the same packets.")
    ] = False,
    min_seconds: Annotated[
        float, typer.Option(min=0.0, max=600.0, help="Least duration of each repeat of a stage.")
    ] = 1.0,
    packets: Annotated[
        int, typer.Option(min=1, metavar="N", help="Least number of packets sent through the bus.")
    ] = 20_000_000,
    rate: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Packets a second, for the stages latency and spool (100,000 by default) and capture (500,000).",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=6.0, max=3600.0, help="For how long the stages latency, packet_models and capture send."
        ),
    ] = 20.0,
    apart: Annotated[
        bool,
        typer.Option("--apart", help="Stage latency: flow state and model in processes of their own."),
    ] = False,
    bus: Annotated[
        str | None,
        typer.Option("--bus", metavar="HOST:PORT", help="Use this broker; without it one is started."),
    ] = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Measure decode, flow table, encode, agent, the way over Kafka and the memory of flow state.

    Captures are expanded into temporary files first and repeated, with event time going on, until the run is
    long enough. Rates are medians by the wall clock; "by CPU time" is what a machine without other work would
    give. The stage bus sends packets through Apache Kafka and a flows worker and checks that each of them is in
    exactly one flow record; where not, the exit code is 1. Thirteen stages have to be asked for: features, the
    price of packet counters, TCP state, video segments and a feature of your own; names, what names and services
    cost; publish, predictions into Kafka from one process;
    record, feature rows and predictions into Parquet; latency, which sends packets at a steady rate and
    measures how long after a packet batch was sent its predictions can be read; packet_models, LSTMs on single
    packets beside keras.predict, which needs TensorFlow; recovery, what copies of the flow state cost a worker and
    how long 100,000 flows are without one after kill -9; telemetry, what counting and telling costs; capture, which
    has a live probe between a packet generator and Kafka and finds the highest rate without a dropped packet (root);
    anonymise, decoding with anonymised addresses; spool, which stops Kafka for 60 s under a steady rate; messages,
    the CPU that a message of a few packets or rows costs; first_packets, what it costs to leave out all but the
    first packets of each flow.
    """
    from flowgauge.bench.run import BenchOptions, parse_stages, run
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    passed_on = ["--config", str(config)] if config else []
    for assignment in settings or ():
        passed_on += ["--set", assignment]
    chosen = BenchOptions(
        stages=parse_stages(stages),
        peers=peers,
        min_seconds=min_seconds,
        packets=packets,
        external_bus=bus is not None,
        rate=rate,
        seconds=seconds,
        apart=apart,
        passed_on=tuple(passed_on),
    )
    return run(effective, captures or (), chosen, as_json)
