"""``flowgauge feature``: the features there are, and those of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options

app = typer.Typer(help="List features, start one of your own, check it.", no_args_is_help=True)


@app.command("list")
def list_features(
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Tell every feature that a representation may name, those of streams.feature_files too.

    State and columns that depend on a representation's depth are given for 8 packets; needs are packet columns that
    probes send only for it.
    """
    from flowgauge.features import show_list
    from flowgauge.settings import load

    return show_list(load(config, {}, settings or ()), as_json)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the feature.")],
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where to write it.")] = Path(),
) -> int:
    """Write NAME.py, a whole feature to start from."""
    from flowgauge.features import write_new

    typer.echo(f"{write_new(name, folder)}: now edit it, then: flowgauge feature check {folder / name}.py")
    return 0


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The feature's Python file.")],
    as_json: options.Json = False,
) -> int:
    """Try a feature as the shipped ones are tried, and say what it costs a flow.

    It must compile and allocate nothing; its state must be bounded; its values finite, repeatable, and the same
    wherever packets are cut into batches and however often the state is saved and taken up again. Exit code 2: it
    is refused, as it would be by a worker.
    """
    from flowgauge.features import check_file

    return check_file(file, as_json)
