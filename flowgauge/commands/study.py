"""``flowgauge study``: models trained and compared, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train and compare models, and write a report.", no_args_is_help=True)

_Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Where trainings and the report are kept.")
]
_Comma = "comma-separated"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@app.command("packets")
def packets(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder that `flowgauge dataset` made.")],
    output: _Output,
    models: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help=f"svm, mlp, lstm, cnn, transformer; all but svm also with -embedding; {_Comma}.",
        ),
    ] = "svm,mlp,lstm,cnn,transformer,mlp-embedding,lstm-embedding",
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help=f"Parameters, such as 15k,300k; {_Comma}. Default: the 15 of the study."
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help=f"Learning rates for every model, {_Comma}. Default: each model's own."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10, metavar="N", help="Trainings of each point.")] = 1,
    split: Annotated[
        str, typer.Option(metavar="NAMES", help=f"random, flow, capture; {_Comma}.")
    ] = "random,flow",
    epochs: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Most epochs.")] = 30,
    patience: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Epochs without a better validation accuracy before it stops."),
    ] = 8,
    batch: Annotated[
        int, typer.Option(min=1, max=65536, metavar="N", help="Packets in a training batch.")
    ] = 256,
    mask: Annotated[
        float, typer.Option(min=0, max=0.9, metavar="SHARE", help="Share of octets masked while training.")
    ] = 0.0,
    dropout: Annotated[
        float, typer.Option(min=0, max=0.9, metavar="SHARE", help="Dropout before the last layer.")
    ] = 0.0,
    by_flow: Annotated[
        bool, typer.Option("--by-flow", help="Weigh a flow as the square root of its packets.")
    ] = False,
    speeds: Annotated[
        bool, typer.Option("--speeds/--no-speeds", help="Measure packets/s and memory.")
    ] = True,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two budgets, five models, 2,000 packets, 8 epochs: for a first look."),
    ] = False,
) -> int:
    """Train every model at every budget, learning rate and seed, on both splits, and write `report.md`.

    Each finished training is kept; stopped at any moment, the same command goes on and gives the same report.
    Needs the extra `study`. KERAS_BACKEND chooses what trains: tensorflow, jax or torch.
    """
    from flowgauge.packet_study import parse_budget, study
    from models.packet.budgets import BUDGETS
    from models.packet.study.plan import Plan
    from models.packet.study.plan import quick as quickly
    from models.packet.training import Recipe

    plan = Plan(
        splits=_split(split),
        kinds=_split(models),
        budgets=tuple(map(parse_budget, _split(budgets))) if budgets else BUDGETS,
        rates=_rates(rates),
        seeds=seeds,
        recipe=Recipe(epochs, patience, batch, mask, dropout, by_flow),
    )
    return study(dataset, output, quickly(plan) if quick else plan, speeds)


def _rates(text: str | None) -> tuple[float, ...]:
    from schemas.errors import SettingsError

    try:
        return tuple(float(part) for part in _split(text or ""))
    except ValueError:
        raise SettingsError(f"--rates {text}: numbers such as 1e-3,5e-4") from None


@app.command("export")
def export(
    point: Annotated[
        Path,
        typer.Argument(
            metavar="POINT", help="A training, DIR/points/….json, or a study's DIR for its best LSTM."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of models.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the model.")] = "packets",
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Of the model. Default: the training's name.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="By which split the best is chosen.")] = "flow",
) -> int:
    """Export a training as ONNX with its model card, to be served without TensorFlow.

    The exported model is asked the same as Keras's; answers that differ by more than 1e-5 are an error.
    """
    from flowgauge.packet_study import best_point
    from flowgauge.packet_study import export as exported

    return exported(best_point(point, split) if point.is_dir() else point, output, name, version)
