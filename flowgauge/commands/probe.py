"""``flowgauge probe``: packets from live interfaces onto the bus."""

from __future__ import annotations

from typing import Annotated

import typer

from flowgauge import options


def command(
    interface: Annotated[
        list[str] | None,
        typer.Option(
            "--interface",
            "-i",
            metavar="IF",
            help="Interface to capture from; repeatable (probe.interfaces).",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the probe; else the host's (probe.name).")
    ] = None,
    capture_filter: Annotated[
        str | None,
        typer.Option("--filter", metavar="FILTER", help="Capture filter as tcpdump takes it (probe.filter)."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes that share each interface's packets (probe.processes)."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only look whether all is there: interface, rights, ring, clock, bus, topics, schema.",
        ),
    ] = False,
    spool: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder for what the bus does not take while it is away (spool.path)."
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="URL",
            help="tcp://host:port, tcp-listen://host:port: pcap over IP; tshark://IF; repeatable (probe.sources).",
        ),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder that captures are written into, as by tcpdump -G (probe.watch)."
        ),
    ] = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Capture from interfaces and send what packets tell to the bus, until Ctrl-C or SIGTERM.

    Needs root or CAP_NET_RAW to open the interfaces, and gives up every right once they are open. When it stops,
    what was taken in is sent and the end is marked; then it sums up. SIGHUP has it read its settings again.
    With --check, exit code 1 means that something is missing.
    """
    from flowgauge.framing import start_framing
    from flowgauge.probing import run
    from flowgauge.settings import load

    flags = {
        "bus.bootstrap": bus,
        "probe.interfaces": tuple(interface) if interface else None,
        "probe.sources": tuple(source) if source else None,
        "probe.watch": watch,
        "probe.name": name,
        "probe.filter": capture_filter,
        "probe.processes": processes,
        "spool.path": spool,
    }
    effective = load(config, flags, settings or ())
    if check:
        from flowgauge.probe_check import check as check_all

        return check_all(effective, as_json)
    start_framing(effective)
    return run(lambda: load(config, flags, settings or ()), as_json)
