"""``flowgauge topics``: the project's topics on the broker."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flowgauge import options


def command(
    create: Annotated[bool, typer.Option("--create", help="Create the topics that are missing.")] = False,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """List the topics the settings ask for and compare them with the broker's.

    Exit code 1 means that a topic is missing or has other partitions or settings; each is named on stderr.
    """
    from flowgauge.bus import create_missing, topic_states
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    created = create_missing(effective) if create else []
    states = topic_states(effective)
    if as_json:
        typer.echo(json.dumps({"topics": [asdict(state) for state in states], "created": created}, indent=2))
    else:
        width = max(len(state.name) for state in states)
        for state in states:
            note = "created" if state.name in created else ("ok" if not state.problem else "!!")
            typer.echo(f"{state.name:<{width}}  {state.partitions:>3} partitions  {note:<7}  {state.doc}")
    if any(state.partitions and not state.compared for state in states):
        typer.echo(
            "flowgauge: the broker does not tell the settings of topics: they are not compared", err=True
        )
    problems = [state.problem for state in states if state.problem]
    for problem in problems:
        typer.echo(f"flowgauge: {problem}", err=True)
    return 1 if problems else 0
