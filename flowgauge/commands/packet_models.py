"""``flowgauge packet-models``: classifiers of single packets, published and served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options

app = typer.Typer(
    help="Publish and serve models that classify single packets, from the first octets of their payload.",
    no_args_is_help=True,
)
Library = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|URL", help="Folder of published models, or its URL (packet_models.library)."
    ),
]
Title = Annotated[
    str, typer.Argument(metavar="NAME[/VERSION]", help="A published model; without a version the newest.")
]


@app.command("serve")
def serve(
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of the model to serve (packet_models.name)."),
    ] = None,
    library: Library = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda", help="Where the model runs (packet_models.device).")
    ] = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Run a worker: payloads in, a prediction for each packet and flow out, until Ctrl-C or SIGTERM.

    It serves the version that the topic models says is live, and goes over to another as soon as one is
    published, without a restart and without losing a packet. A version that cannot be used is refused, with the
    reason on stderr, and the one before goes on serving. While there is none the payloads wait on the bus.
    """
    from flowgauge.framing import start_framing
    from flowgauge.interrupt import stopping
    from flowgauge.settings import load
    from flowgauge.workers import log_to_stderr, show_counters, waiting
    from models.packet.config import PacketModelSettings
    from models.packet.worker import run_worker
    from producers.config import BusSettings

    given = {
        "bus.bootstrap": bus,
        "packet_models.name": name,
        "packet_models.library": library,
        "packet_models.device": device,
    }
    effective = load(config, given, settings or ())
    start_framing(effective)
    log_to_stderr()
    chosen = effective.get("packet_models", PacketModelSettings)
    with stopping() as stop:
        code, counters = run_worker(chosen, effective.get("bus", BusSettings), stop.event, waiting)
    show_counters("packet-models", counters, as_json)
    # SIGTERM is how a supervisor stops a worker: 0, as for the other workers.
    return code or (stop.exit_code if stop.exit_code == 130 else 0)


@app.command("publish")
def publish(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder: model.onnx and card.json.")],
    library: Library = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Put a model into the library and make it live: every worker of its name goes over to it.

    The model is tried out first; one that cannot be used is not published. To go back to an older version,
    publish its folder in the library again.
    """
    from flowgauge.published_models import PACKET_MODELS
    from flowgauge.published_models import publish as published
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus, "packet_models.library": library}, settings or ())
    return published(PACKET_MODELS, folder, effective, as_json)


@app.command("list")
def show_list(
    library: Library = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """List the published models, and which version of each is live by the topic models."""
    from flowgauge.published_models import PACKET_MODELS, show_published
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus, "packet_models.library": library}, settings or ())
    return show_published(PACKET_MODELS, effective, as_json)


@app.command("show")
def show(
    title: Title,
    library: Library = None,
    config: options.Config = None,
    settings: options.Set = None,
) -> int:
    """Print the card of a published model, as JSON."""
    from flowgauge.published_models import PACKET_MODELS, show_card
    from flowgauge.settings import load

    return show_card(PACKET_MODELS, title, load(config, {"packet_models.library": library}, settings or ()))


@app.command("quantize")
def quantize(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder: model.onnx and card.json.")],
    dataset: Annotated[
        Path, typer.Option("--data", metavar="DATASET", help="Data set whose test packets decide.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where NAME/VERSION-int16 or -int8 is written."),
    ] = Path("models"),
    split: Annotated[
        str, typer.Option(metavar="random|flow|capture", help="Split of the data set.")
    ] = "flow",
    to: Annotated[
        str | None,
        typer.Option(
            metavar="int16|int8", help="int16 is for the study's LSTMs, and what they get; int8 for all."
        ),
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="Most accuracy given up, in percentage points.")
    ] = 0.5,
    as_json: options.Json = False,
) -> int:
    """Make a version of a model with weights of fewer bits, which is faster.

    int16 answers LSTMs a third to a half faster, large ones twice as fast a packet at a time; int8 is a quarter of the
    size. Both versions are scored on the data set's test packets, and the card says what that gave. Where the loss of
    accuracy is larger than allowed nothing is written, and the exit code is 1.
    """
    from flowgauge.outcome import FAILED, tell
    from models.packet.quantize import quantize_model

    made = quantize_model(folder, dataset, split, out, max_loss / 100, to)
    if as_json:
        typer.echo(json.dumps(made.as_dict()))
    else:
        typer.echo(made.text())
    if made.folder is None:
        tell(f"flowgauge: the loss is more than {max_loss:g} points: nothing is written")
        return FAILED
    return 0
