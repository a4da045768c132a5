"""``flowgauge check``: the effective settings, and whether the bus is as they need it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from flowgauge import options

if TYPE_CHECKING:
    from flowgauge.settings import Effective


def command(
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
    with_bus: Annotated[
        bool, typer.Option("--bus", help="Also check that the broker answers and has the topics.")
    ] = False,
) -> int:
    """Print the effective settings as a settings file, and say where each value came from.

    The output can be used as a settings file. With --bus, exit code 4 means that no broker (or schema registry)
    answers, 1 that a topic is missing or different.
    """
    from flowgauge.settings import load
    from flowgauge.settings_print import as_object, as_toml

    effective = load(config, assignments=settings or ())
    shadowed, too_deep = _rules_that_never_match(effective), _rows_beyond_first_packets(effective)
    problems: list[str] = []
    if with_bus:
        from flowgauge.bus import topic_states
        from flowgauge.framing import check_registry

        check_registry(effective)
        problems = [state.problem for state in topic_states(effective) if state.problem]
    if as_json:
        found = {"bus_problems": problems} if with_bus else {}
        found |= {"rules_that_never_match": shadowed} if shadowed else {}
        found |= {"rows_beyond_first_packets": too_deep} if too_deep else {}
        typer.echo(json.dumps({**as_object(effective), **found}, indent=2))
    else:
        typer.echo(as_toml(effective), nl=False)
        for line in (*shadowed, *too_deep):
            typer.echo(f"flowgauge: warning: {line}", err=True)
        for problem in problems:
            typer.echo(f"flowgauge: {problem}", err=True)
        if with_bus and not problems:
            typer.echo("flowgauge: the broker answers and has every topic", err=True)
    return 1 if problems else 0


def _rules_that_never_match(effective: Effective) -> list[str]:
    """Return rules of services that other rules leave nothing to, over all probes that services name."""
    from streams.config import StreamsSettings
    from streams.services.rules import RuleBook

    services = effective.get("streams", StreamsSettings).services
    probes = {probe for service in services for probe in service.probes} or {""}
    found = {line: None for probe in sorted(probes) for line in RuleBook(services, probe).shadowed}
    return list(found)


def _rows_beyond_first_packets(effective: Effective) -> list[str]:
    """Return the early representations that look deeper than packets are sent."""
    from producers.config import PacketsSettings
    from streams.config import StreamsSettings

    first = effective.get("packets", PacketsSettings).first_packets
    return [
        f"representation {one.name} makes rows at packet {one.depth}, and packets.first_packets = {first} leaves "
        "out packets before it"
        for one in effective.get("streams", StreamsSettings).representations
        if one.kind == "early" and 0 < first < one.depth
    ]
