"""``flowgauge cascade``: fast and slow models of flows, published and served together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options

app = typer.Typer(
    help="Publish and serve cascades: flows are answered on their first packet, the uncertain ones on later packets.",
    no_args_is_help=True,
)
Library = Annotated[
    str | None,
    typer.Option(metavar="FOLDER|URL", help="Folder of published models, or its URL (cascade.library)."),
]
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Cascade folder: cascade.json and its models.")
]
Title = Annotated[
    str, typer.Argument(metavar="NAME[/VERSION]", help="A published cascade; without a version the newest.")
]


@app.command("serve")
def serve(
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of the cascade to serve (cascade.name)."),
    ] = None,
    library: Library = None,
    with_flows: options.WithFlows = False,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Run a worker: feature rows in, one final prediction for each flow out, until Ctrl-C or SIGTERM.

    It serves the version that the topic models says is live, tiers and thresholds together, and goes over to another
    as soon as one is published. A version that cannot be used is refused, with the reason on stderr, and the one before
    goes on serving. While there is none the rows wait on the bus.

    With --with-flows it takes the place of a flows worker (`flowgauge streams`, in the same group): it reads packets,
    answers the rows that it makes of them, and publishes the rows as well.
    """
    from flowgauge.framing import start_framing
    from flowgauge.interrupt import stopping
    from flowgauge.settings import load
    from flowgauge.workers import log_to_stderr, show_counters, waiting
    from models.flow.config import CascadeSettings
    from models.flow.worker import run_worker
    from producers.config import BusSettings
    from streams.config import StreamsSettings

    given = {"bus.bootstrap": bus, "cascade.name": name, "cascade.library": library}
    effective = load(config, given, settings or ())
    start_framing(effective)
    log_to_stderr()
    chosen = effective.get("cascade", CascadeSettings)
    with stopping() as stop:
        code, counters = run_worker(
            chosen,
            effective.get("bus", BusSettings),
            stop.event,
            waiting,
            effective.get("streams", StreamsSettings) if with_flows else None,
        )
    show_counters("cascade", counters, as_json)
    # SIGTERM is how a supervisor stops a worker: 0, as for the other workers.
    return code or (stop.exit_code if stop.exit_code == 130 else 0)


@app.command("publish")
def publish(
    folder: Folder,
    library: Library = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Put a cascade into the library and make it live: every worker of its name goes over to it.

    Each tier is tried out first; a cascade with one that cannot be used is not published. To go back to an older
    version, publish its folder in the library again.
    """
    from flowgauge.published_models import CASCADES
    from flowgauge.published_models import publish as published
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus, "cascade.library": library}, settings or ())
    return published(CASCADES, folder, effective, as_json)


@app.command("list")
def show_list(
    library: Library = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """List the published cascades, and which version of each is live by the topic models."""
    from flowgauge.published_models import CASCADES, show_published
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus, "cascade.library": library}, settings or ())
    return show_published(CASCADES, effective, as_json)


@app.command("show")
def show(
    title: Title,
    library: Library = None,
    config: options.Config = None,
    settings: options.Set = None,
) -> int:
    """Print what a published cascade is made of, as JSON: tiers, thresholds, what it was tuned for."""
    from flowgauge.published_models import CASCADES, show_card
    from flowgauge.settings import load

    return show_card(CASCADES, title, load(config, {"cascade.library": library}, settings or ()))
