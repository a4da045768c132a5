"""What is published of a kind of model: the library and the topic ``models`` together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from flowgauge.framing import start_framing
from flowgauge.settings import Effective
from models.flow.bundle import CASCADES as CASCADE_KIND
from models.flow.bundle import open_cascade
from models.flow.card import CascadeCard
from models.flow.config import CascadeSettings
from models.packet.announce import Announcement, AnnouncementReader, announce
from models.packet.card import ModelCard
from models.packet.config import PacketModelSettings
from models.packet.errors import ModelError
from models.packet.library import PACKET_MODELS as PACKET_KIND
from models.packet.library import Kind, Library, version_of
from models.packet.runtime import open_model
from models.packet.store import StoredLibrary, open_library
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.topics import MODELS


@dataclass(frozen=True)
class Published:
    """A kind of model with what its commands need."""

    called: str
    kind: Kind
    where: Callable[[Effective], str]
    """Returns the setting that names the library."""
    try_out: Callable[[Path], object]
    """Raises ModelError for a folder that cannot be used."""
    bulk: Callable[[ModelCard], dict[str, Any]] = lambda card: {}
    """Returns what of a card is not for people, as pydantic's ``exclude`` takes it."""

    def library(self, effective: Effective) -> Library | StoredLibrary:
        """Return the library; raises SettingsError for a URL that cannot be used."""
        return open_library(self.where(effective), self.kind)


def _bulk(card: ModelCard) -> dict[str, Any]:
    """Return what only the worker reads of a cascade, with the names of octets."""
    tiers = card.tiers if isinstance(card, CascadeCard) else ()
    octets = {i: {"columns": True} for i, tier in enumerate(tiers) if tier.kind == "packet"}
    return {"input": True, "unknown": True, "reference": True, "tiers": octets}


PACKET_MODELS = Published(
    "packet model",
    PACKET_KIND,
    lambda effective: effective.get("packet_models", PacketModelSettings).library,
    open_model,
)
CASCADES = Published(
    "cascade",
    CASCADE_KIND,
    lambda effective: effective.get("cascade", CascadeSettings).library,
    open_cascade,
    _bulk,
)


def publish(of: Published, folder: Path, effective: Effective, as_json: bool) -> int:
    """Try a model out, put it into the library and tell everyone that it is live.

    Raises:
        ModelError: it cannot be used, or the library does not take it.
        BusError: the broker does not take the announcement.
    """
    start_framing(effective)
    bus, library = effective.get("bus", BusSettings), of.library(effective)
    of.try_out(folder)
    sink = connected(bus)
    card = library.add(folder)
    place = library.place(card.name, card.version)
    announce(card, place, bus, sink)
    if as_json:
        typer.echo(json.dumps({"name": card.name, "version": card.version, "folder": place}))
    else:
        typer.echo(f"{card.title} is live: {place}")
    return 0


def show_card(of: Published, title: str, effective: Effective) -> int:
    """Print the card of a published model, as JSON; raises ModelError where there is none."""
    library = of.library(effective)
    card = library.card(*version_of(library, title))
    told = card.model_dump(mode="json", exclude=of.bulk(card))
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    return 0


def show_published(of: Published, effective: Effective, as_json: bool) -> int:
    """Print what is published, and which version of each is live."""
    start_framing(effective)
    found = published(of, effective)
    if as_json:
        typer.echo(json.dumps({"models": found}))
        return 0
    if not found:
        typer.echo(f"no {of.called} is published")
    for model in found:
        size = f", {model['parameters']:,} parameters" if model["parameters"] else ""
        typer.echo(
            f"{'live' if model['live'] else '':<5} {model['name']}/{model['version']}  {model['kind']}{size}, "
            f"{model['classes']} classes{model['note']}"
        )
    return 0


def published(of: Published, effective: Effective) -> list[dict[str, Any]]:
    """Return a row for each version in the library and each live one that is not in it.

    Raises:
        BusError: the topic cannot be read.
    """
    library = of.library(effective)
    told_of = _live(effective.get("bus", BusSettings)).items()
    live = {name: told for name, told in told_of if (told.kind == "cascade") == (of is CASCADES)}
    rows = [_row(library, name, version, live.get(name)) for name, version in library.titles()]
    listed = {(row["name"], row["version"]) for row in rows}
    for told in live.values():
        if (told.name, told.version) not in listed:
            note = told.problem or f"not in the library {library.root}"
            rows.append(_entry(told.name, told.version, told.kind, 0, len(told.classes), True, f"; {note}"))
    return rows


def connected(bus: BusSettings) -> BusProducer:
    """Return a producer on a bus that has the topic ``models``; raises BusError."""
    sink = BusProducer(bus)
    sink.connect()
    sink.require(topic_name(bus, MODELS))
    return sink


def _live(bus: BusSettings) -> dict[str, Announcement]:
    """Return the last announcement of each model that has a live version."""
    connected(bus)
    found: dict[str, Announcement] = {}
    with AnnouncementReader(bus) as reader:
        for told in reader.all(bus.connect_timeout_s):
            found[told.name] = told
    return {name: told for name, told in found.items() if told.version}


def _row(
    library: Library | StoredLibrary, name: str, version: str, live: Announcement | None
) -> dict[str, Any]:
    is_live = live is not None and live.version == version
    try:
        card = library.card(name, version)
    except ModelError as error:
        return _entry(name, version, "?", 0, 0, is_live, f"; {error}")
    note = "; not the file that was announced" if is_live and live and live.sha256 != card.sha256 else ""
    return _entry(name, version, card.kind, card.parameters, len(card.classes), is_live, note)


def _entry(
    name: str, version: str, kind: str, parameters: int, classes: int, live: bool, note: str
) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "kind": kind,
        "parameters": parameters,
        "classes": classes,
        "live": live,
        "note": note,
    }
