"""``flowgauge broker``: a broker for use by hand, embedded or Kafka itself."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Run a broker in the foreground: embedded (only Python, for trying out) or kafka (needs Java).",
    no_args_is_help=True,
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _run(kind: str, context: typer.Context) -> int:
    from infra.broker.__main__ import main

    return main([kind, *context.args]) or 0


@app.command("embedded", context_settings=_PASS_ON)
def embedded(context: typer.Context) -> int:
    """librdkafka's mock cluster: in memory, 5 MiB per partition, for trying out."""
    return _run("embedded", context)


@app.command("kafka", context_settings=_PASS_ON)
def kafka(context: typer.Context) -> int:
    """Apache Kafka, one KRaft node, from Maven's jars."""
    return _run("kafka", context)
