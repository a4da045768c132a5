"""``flowgauge acls``: what each kind of process may do on the bus."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flowgauge import options


def command(
    who: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROLE=NAME…", help="Roles and who has them, as probe=gateway-a. None: all roles."
        ),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Give the broker these ACLs.")] = False,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Tell what each role needs of the bus and no more, as commands of Kafka's own tool, or have the broker grant it.

    A role is a kind of process: probe, flows, models, subscriber and so on. Topics and groups are those of the
    settings. With --create, the broker must have an authorizer and let this process alter ACLs.
    """
    from flowgauge import access
    from flowgauge.settings import load
    from producers.config import BusSettings
    from schemas.errors import SettingsError

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    found, connection = access.roles(effective), effective.get("bus", BusSettings)
    if create and not who:
        raise SettingsError("--create: say who has which role, as probe=gateway-a")
    holders = access.parse_holders(who or [f"{role}=NAME" for role in found], list(found))
    if create:
        count = access.create(connection, holders, found)
    if as_json:
        told = [
            {"role": h.role, "principal": h.principal, **asdict(g)}
            for h in holders
            for g in h.grants(found[h.role])
        ]
        typer.echo(json.dumps({"acls": told, "created": create}, indent=2))
    elif create:
        typer.echo(f"{count} ACLs for {', '.join(f'{h.principal} ({h.role})' for h in holders)}")
    else:
        for holder in holders:
            typer.echo(f"# {holder.role}")
            for grant in holder.grants(found[holder.role]):
                typer.echo(access.as_command(holder, grant, connection.bootstrap))
    return 0
