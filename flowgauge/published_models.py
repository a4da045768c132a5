"""What is published of a kind of model: the library and the topic ``models`` together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from models.flow.card import CASCADE_FILE, read_cascade_card
from models.packet.announce import Announcement, AnnouncementReader, announce
from models.packet.card import CARD_FILE, ModelCard, read_card
from models.packet.errors import ModelError
from models.packet.library import Library
from models.packet.store import StoredLibrary, open_library
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.topics import MODELS


@dataclass(frozen=True)
class Kind:
    """A kind of model: what it is called, what each has in its folder, and how that is read."""

    name: str
    card_file: str
    read: Callable[[Path], ModelCard]
    """Reads the card of a folder, with its checksum; raises ModelError."""


PACKET_MODELS = Kind("packet model", CARD_FILE, read_card)
CASCADES = Kind("cascade", CASCADE_FILE, read_cascade_card)


def published(kind: Kind, library_folder: str, bus: BusSettings) -> list[dict[str, Any]]:
    """Return a row for each version in the library and each live one that is not in it.

    Raises:
        BusError: the topic cannot be read.
    """
    live = {name: told for name, told in _live(bus).items() if (told.kind == "cascade") == (kind is CASCADES)}
    library: Library | StoredLibrary = Library(library_folder, kind.card_file)
    if kind is PACKET_MODELS:
        library = open_library(library_folder)
    rows = [_row(kind, library, name, version, live.get(name)) for name, version in library.titles()]
    listed = {(row["name"], row["version"]) for row in rows}
    for told in live.values():
        if (told.name, told.version) not in listed:
            note = told.problem or f"not in the library {library.root}"
            rows.append(_entry(told.name, told.version, told.kind, 0, len(told.classes), True, f"; {note}"))
    return rows


def show_published(kind: Kind, library_folder: str, bus: BusSettings, as_json: bool) -> int:
    """Print what is published, and which version of each is live."""
    found = published(kind, library_folder, bus)
    if as_json:
        typer.echo(json.dumps({"models": found}))
        return 0
    if not found:
        typer.echo(f"no {kind.name} is published")
    for model in found:
        size = f", {model['parameters']:,} parameters" if model["parameters"] else ""
        typer.echo(
            f"{'live' if model['live'] else '':<5} {model['name']}/{model['version']}  {model['kind']}{size}, "
            f"{model['classes']} classes{model['note']}"
        )
    return 0


def publish(card: ModelCard, folder: Path | str, bus: BusSettings, sink: BusProducer, as_json: bool) -> int:
    """Tell everyone that a model in the library is live, and say so."""
    announce(card, str(folder), bus, sink)
    if as_json:
        typer.echo(json.dumps({"name": card.name, "version": card.version, "folder": str(folder)}))
    else:
        typer.echo(f"{card.title} is live: {folder}")
    return 0


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
    kind: Kind, library: Library | StoredLibrary, name: str, version: str, live: Announcement | None
) -> dict[str, Any]:
    is_live = live is not None and live.version == version
    try:
        if isinstance(library, StoredLibrary):
            card = library.card(name, version)  # without the model
        else:
            card = kind.read(library.folder(name, version))
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
