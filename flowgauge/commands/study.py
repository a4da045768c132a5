"""``flowgauge study``: models trained and compared, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge import options

if TYPE_CHECKING:
    from flowgauge.settings import Effective
    from models.flow.card import Method
    from models.flow.study.plan import Budget

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
    replace: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, metavar="SHARE", help="Share of octets replaced by random ones while training."
        ),
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
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Train all rates, seeds and splits of a model's size at once; for a GPU, with KERAS_BACKEND=jax.",
        ),
    ] = False,
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
        recipe=Recipe(epochs, patience, batch, mask=mask, replace=replace, dropout=dropout, by_flow=by_flow),
        together=together,
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
    ensemble: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET",
            help="Export the mean of all seeds' trainings, scored on the study's data set: better, and so many "
            "times as slow.",
        ),
    ] = None,
) -> int:
    """Export a training as ONNX with its model card, to be served without TensorFlow.

    The exported model is asked the same as Keras's; answers that differ by more than 1e-5 are an error.
    """
    from flowgauge.packet_study import best_point
    from flowgauge.packet_study import export as exported

    return exported(best_point(point, split) if point.is_dir() else point, output, name, version, ensemble)


@app.command("cascade")
def cascade(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Capture, or folder of captures with labels.csv, or a table of packet sequences (CSV).",
        ),
    ],
    output: _Output,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Labels of the captures or their flows; `ndpi`: what nDPI says."),
    ] = None,
    models: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help=f"decision_tree, random_forest, lightgbm, mlp, cnn, river; {_Comma}."
        ),
    ] = "decision_tree,random_forest,lightgbm,mlp",
    representations: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help=f"early, statistics, header_bits; NAME/N: no deeper than N packets; {_Comma}.",
        ),
    ] = "early",
    depths: Annotated[
        str, typer.Option(metavar="LIST", help=f"Packets after which a flow may be answered; {_Comma}.")
    ] = "1,2,3,5,10",
    splits: Annotated[int, typer.Option(min=1, max=10, metavar="N", help="Splits of the flows.")] = 3,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="group: no capture (of a table: day of a class) on two sides; flow."
        ),
    ] = "group",
    trees: Annotated[int, typer.Option(min=1, max=2000, metavar="N", help="Trees of a random forest.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, max=5000, metavar="N", help="Most rounds of boosting.")] = 200,
    threads: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Threads that train.")] = 1,
    budget: Annotated[
        str,
        typer.Option(
            metavar="KIND=LIMIT",
            help="share=0.5 of flows handed on; latency=20 ms for nine in ten flows; cpu=50 us a flow.",
        ),
    ] = "share=0.5",
    thresholds: Annotated[str, typer.Option(metavar="NAME", help="per_class or universal.")] = "per_class",
    tiers: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Tiers to take, such as random_forest@1,lightgbm@5. Default: those that come out best.",
        ),
    ] = None,
    packet_model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|NAME[/VERSION]",
            help="Packet model that is tried as a tier, `packet@N`: exported, or published in packet_models.library.",
        ),
    ] = None,
    packet_depths: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"Packets of a flow that it is asked about; {_Comma}. Default: those of --depths.",
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.01, max=3600, metavar="S", help="Longest that a flow is held, in s.")
    ] = 5.0,
    unknown_below: Annotated[
        float, typer.Option(min=0, max=1, metavar="P", help="Confidence under which an answer is unknown.")
    ] = 0.1,
    min_flows: Annotated[int, typer.Option(min=3, metavar="N", help="Least flows of a class.")] = 20,
    min_groups: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Least captures (days) of a class. Default: 3, of a table 2; 1 by flow."
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the cascade.")] = "flows",
    version: Annotated[str, typer.Option(metavar="VERSION", help="Of the cascade.")] = "1",
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Train models over depths, choose tiers, tune thresholds; write a cascade, settings that serve it and a report.

    Each finished training is kept; stopped at any moment, the same command goes on. Needs the extra `study`.
    """
    from flowgauge.cascade_data import is_captures
    from flowgauge.cascade_study import study
    from flowgauge.settings import load
    from models.flow.study.plan import Plan
    from models.flow.study.train import Settings
    from streams.config import StreamsSettings

    effective = load(config, {}, settings or ())
    plan = Plan(
        models=_split(models),
        representations=tuple(name.partition("/")[0] for name in _split(representations)),
        most_depth=_most_depth(representations),
        depths=_numbers("--depths", depths),
        splits=splits,
        by=split,
        training=Settings(trees, rounds, threads),
        budget=_budget(budget),
        method=_method(thresholds),
        wait_s=wait,
        chain=_split(tiers or ""),
        unknown_below=unknown_below,
        name=name,
        version=version,
        packet_model=_packet_model(packet_model, effective) if packet_model else None,
        packet_depths=_numbers("--packet-depths", packet_depths or ""),
    )
    # A class needs a group to learn from, one to tune on and one to test on; days of a class are few.
    usual = 1 if split == "flow" else 3 if is_captures(dataset) else 2
    groups = usual if min_groups is None else min_groups
    streams = effective.get("streams", StreamsSettings)
    return study(dataset, labels, output, plan, streams, min_flows, groups, as_json)


def _packet_model(text: str, effective: Effective) -> Path:
    """Return the folder of a packet model: this one, or a published one's; raises ModelError."""
    from flowgauge.published_models import PACKET_MODELS

    return Path(text) if Path(text).is_dir() else PACKET_MODELS.library(effective).find(text)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from schemas.errors import SettingsError

    try:
        return tuple(int(part) for part in _split(text))
    except ValueError:
        raise SettingsError(f"{option} {text}: whole numbers such as 1,3,10") from None


def _most_depth(text: str) -> tuple[tuple[str, int], ...]:
    parts = [part.partition("/") for part in _split(text)]
    return tuple(
        (name, _numbers("--representations", depth)[0]) for name, slash, depth in parts if slash and depth
    )


def _budget(text: str) -> Budget:
    from models.flow.study.plan import Budget
    from schemas.errors import SettingsError

    kind, _, limit = text.partition("=")
    try:
        value = float(limit)
    except ValueError:
        value = -1.0
    if kind not in ("share", "latency", "cpu") or not 0 < value < 1e9:
        raise SettingsError(f"--budget {text}: share=0.5, latency=20 (ms) or cpu=50 (us)")
    return Budget(kind, value)  # type: ignore[arg-type]


def _method(text: str) -> Method:
    from schemas.errors import SettingsError

    if text not in ("per_class", "universal"):
        raise SettingsError(f"--thresholds {text}: per_class or universal")
    return text  # type: ignore[return-value]
