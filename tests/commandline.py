"""Parses a line as the command would, without running anything."""

from __future__ import annotations

from collections.abc import Sequence

from typer.main import get_command

from flowgauge.cli import app, with_names_joined
from infra.broker.__main__ import _parser as broker_parser


def parse(arguments: Sequence[str]) -> None:
    """Parse what stands behind ``flowgauge``; raises what the parser raises where that is no command line."""
    if "--help" in arguments or "-h" in arguments or list(arguments) == ["--version"]:
        assert len(arguments) == 1 or arguments[0] in get_command(app).commands  # type: ignore[attr-defined]
        return
    if arguments[0] == "broker":
        broker_parser().parse_args(list(arguments[1:]))
        return
    group = get_command(app)
    words = with_names_joined(arguments, group.commands)  # type: ignore[attr-defined]
    with group.make_context("flowgauge", words) as context:
        rest = [*context._protected_args, *context.args]
        name, command, rest = group.resolve_command(context, rest)  # type: ignore[attr-defined]
        command.make_context(name, rest, parent=context).close()
