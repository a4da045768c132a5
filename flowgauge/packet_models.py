"""What is published of packet models: the library and the topic ``models`` together."""

from __future__ import annotations

from typing import Any

from flowgauge.settings import Effective
from models.packet.announce import Announcement, AnnouncementReader
from models.packet.card import read_card
from models.packet.config import PacketModelSettings
from models.packet.errors import ModelError
from models.packet.library import Library
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.topics import MODELS


def published(effective: Effective) -> list[dict[str, Any]]:
    """Return a row for each version in the library and each live one that is not in it.

    Raises:
        BusError: the topic cannot be read.
    """
    settings, bus = effective.get("packet_models", PacketModelSettings), effective.get("bus", BusSettings)
    live = _live(bus)
    library = Library(settings.library)
    rows = [_row(library, name, version, live.get(name)) for name, version in library.titles()]
    listed = {(row["name"], row["version"]) for row in rows}
    for told in live.values():
        if (told.name, told.version) not in listed:
            note = told.problem or f"not in the library {library.root}"
            rows.append(_entry(told.name, told.version, told.kind, 0, len(told.classes), True, f"; {note}"))
    return rows


def _live(bus: BusSettings) -> dict[str, Announcement]:
    """Return the last announcement of each model that has a live version."""
    sink = BusProducer(bus)
    sink.connect()
    sink.require(topic_name(bus, MODELS))
    found: dict[str, Announcement] = {}
    with AnnouncementReader(bus) as reader:
        for told in reader.all(bus.connect_timeout_s):
            found[told.name] = told
    return {name: told for name, told in found.items() if told.version}


def _row(library: Library, name: str, version: str, live: Announcement | None) -> dict[str, Any]:
    is_live = live is not None and live.version == version
    try:
        card = read_card(library.folder(name, version))
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
