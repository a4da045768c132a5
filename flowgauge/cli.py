"""The command line: every subcommand, put together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from flowgauge.commands import (
    acls,
    bench,
    bench_serve,
    broker,
    cascade,
    check,
    cost,
    costs,
    dataset,
    demo,
    explore,
    feature,
    flows,
    label,
    labels,
    models,
    packet_models,
    privacy,
    probe,
    record,
    replay,
    spool,
    streams,
    study,
    tail,
    topics,
)
from flowgauge.outcome import EXIT_CODES

_HELP = "Gauge network flows on a message bus: what they are, how sure the model is, and what it cost."
_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="flowgauge",
    help=_HELP,
    epilog=_EPILOG,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

app.command("demo")(demo.command)
app.command("probe")(probe.command)
app.command("replay")(replay.command)
app.command("streams")(streams.command)
app.command("models")(models.command)
app.command("flows")(flows.command)
app.command("label")(label.command)
app.command("labels")(labels.command)
app.command("dataset")(dataset.command)
app.command("tail")(tail.command)
app.command("record")(record.command)
app.command("topics")(topics.command)
app.command("acls")(acls.command)
app.command("costs")(costs.command)
app.command("cost")(cost.command)
app.command("explore")(explore.command)
app.command("check")(check.command)
app.command("bench")(bench.command)
app.command("bench serve")(bench_serve.command)
app.add_typer(packet_models.app, name="packet-models")
app.add_typer(cascade.app, name="cascade")
app.add_typer(privacy.app, name="privacy")
app.add_typer(spool.app, name="spool")
app.add_typer(feature.app, name="feature")
app.add_typer(study.app, name="study")
app.add_typer(broker.app, name="broker")


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"flowgauge {version('flowgauge')}")
    except PackageNotFoundError:
        typer.echo("flowgauge, run from its source without being installed")
    raise typer.Exit


@app.callback(help=_HELP)
def root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that stand before the subcommand; its help is _HELP."""


def with_names_joined(words: Sequence[str], names: Collection[str]) -> list[str]:
    """Return a command line whose first two words are one where that is a subcommand's name, like ``bench serve``.

    Its first word alone is another one that takes arguments, so it cannot be a group.
    """
    first = " ".join(words[:2])
    return [first, *words[2:]] if first in names else list(words)


def invoke(arguments: Sequence[str]) -> int | None:
    """Parse ``arguments`` and run the subcommand; return its exit code (None for 0).

    Errors are raised, the parser's own too: ``flowgauge.outcome.run`` tells them.
    """
    command = typer.main.get_command(app)
    words = with_names_joined(arguments, command.commands)  # type: ignore[attr-defined]
    try:
        with command.make_context("flowgauge", words or ["--help"]) as context:
            result = command.invoke(context)
    except typer.Exit as request:
        return request.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else None
