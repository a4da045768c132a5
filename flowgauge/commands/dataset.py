"""``flowgauge dataset``: captures and labels to a data set of packets for models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options


def command(
    captures: Annotated[
        list[str],
        typer.Argument(metavar="CAPTURE…", help="pcap or pcapng files, also .gz and .zst."),
    ],
    labels: Annotated[
        str,
        typer.Option(metavar="nDPI|FILE", help="nDPI (through NFStream), or a file of labels (CSV)."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the data set.")],
    per_class: Annotated[int, typer.Option(min=3, metavar="M", help="Most packets of a class.")] = 10_000,
    per_flow: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Most packets of a flow; else only --per-class bounds it."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all that is drawn.")] = 1,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Only this class; repeat it for more."),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option("--without", metavar="NAME", help="Leave this label out; repeatable.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Only N classes, those with most of what --top-by says."),
    ] = None,
    top_by: Annotated[
        str, typer.Option(metavar="WHAT", help="groups (of independent captures), flows or packets.")
    ] = "groups",
    min_packets: Annotated[
        int,
        typer.Option(min=3, metavar="N", help="Packets a class must have; train, validation, test need 3."),
    ] = 3,
    min_flows: Annotated[int, typer.Option(min=1, metavar="N", help="Flows a class must have.")] = 1,
    min_groups: Annotated[
        int, typer.Option(min=1, metavar="N", help="Independent captures a class must have.")
    ] = 1,
    min_part: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Packets that train, validation and test must each get of a class, no flow or capture divided.",
        ),
    ] = 0,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups",
            metavar="FILE",
            help="CSV of captures that belong together; else captures.csv beside the labels file.",
        ),
    ] = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Make a data set of packets: the first 1,480 octets of each IP payload, with the class of its flow.

    Flows are those of `flowgauge flows`. The first 20 octets are masked, short packets padded with zeros. All
    flows of a class give about as many packets. Packets are split 64/16/20 into train, validation and test: at
    random, by flow, and by independent captures.
    """
    from flowgauge.dataset_run import run
    from flowgauge.settings import load
    from models.packet.choose import ClassRules

    rules = ClassRules(
        tuple(classes or ()),
        tuple(leave_out or ()),
        top,
        top_by,
        min_packets,
        min_flows,
        min_groups,
        min_part,
    )
    effective = load(config, {}, settings or ())
    return run(effective, captures, labels, groups, output, per_class, per_flow, seed, rules, as_json)
