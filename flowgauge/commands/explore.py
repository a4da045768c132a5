"""``flowgauge explore``: features, periods and depths searched for quality against cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options


def command(
    task: Annotated[
        str, typer.Option("--task", metavar="NAME|FILE", help="video, attacks, or a .toml file of your own.")
    ],
    captures: Annotated[
        list[str],
        typer.Option(
            "--captures",
            metavar="CAPTURE",
            help="A capture, or a quoted pattern ('lab/*.pcap.gz'); may be repeated.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the search is kept.")],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels", metavar="FILE", help="Labels by flow, by second or by capture; may be repeated."
        ),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--tables",
            metavar="FILE",
            help="Ready-made tables of flows, labels included (.csv, .csv.gz): quality is judged on these, and the "
            "captures only tell prices. May be repeated.",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Choices tried, those of before counted.")
    ] = 60,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="f1_macro, f1_weighted or rmse. Default: the task's.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of the labels. Default: the task's, label.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What no two folds share: capture, host, flow, auto. Default: the task's."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=3, metavar="N", help="How often each price is measured.")] = 10,
    confirm: Annotated[
        int, typer.Option(min=0, metavar="N", help="Points of the front whose own kernel is measured.")
    ] = 3,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Search features, periods and depths for the best quality at each cost, and write the front.

    Quality is that of a random forest, cross-validated: no capture, host or flow is in training and test. Costs are
    measured: CPU, state, storage, time to decision. Stopped at any moment, the same command goes on. DIR then holds
    front.md, .csv, .json and .svg, and settings/NN.toml for each point. Needs the extra `study`.
    """
    from flowgauge.explore import run
    from flowgauge.settings import load

    changed = {"metric": metric, "label_column": label_column, "group_by": group_by}
    effective = load(config, {}, settings or ())
    return run(
        effective,
        task,
        captures,
        labels or (),
        tables or (),
        output,
        changed,
        trials,
        repeats,
        confirm,
        as_json,
    )
