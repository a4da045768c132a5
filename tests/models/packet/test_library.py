"""The library and the topic that says what is live."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.packet.announce import announcement, parse
from models.packet.card import CARD_FILE, MODEL_FILE, read_card
from models.packet.config import PacketModelSettings
from models.packet.errors import ModelError
from models.packet.library import Library, default_folder
from models.packet.live import Change, LiveModel, load
from models.packet.runtime import PacketModel
from producers.config import BusSettings
from schemas.codec import decode, encode
from tests.models.packet.made import CLASSES, graph, model_folder
from tests.waiting import wait_until


def published(tmp_path: Path, **how: object) -> tuple[Library, bytes]:
    """Return a library with packets/1 in it, and the message that announces it."""
    library = Library(tmp_path / "library")
    card = library.add(model_folder(tmp_path / "made", **how))  # type: ignore[arg-type]
    return library, encode("ModelVersion", announcement(card, library.place(card.name, card.version), 7))


def test_a_model_is_copied_with_its_checksum_and_found(tmp_path: Path) -> None:
    library, _ = published(tmp_path)
    library.add(model_folder(tmp_path / "made", version="2"))
    assert list(library.titles()) == [("packets", "1"), ("packets", "2")]
    assert library.find("packets") == library.root / "packets" / "2"
    assert library.find("packets/1") == library.root / "packets" / "1"
    assert len(read_card(library.find("packets/1")).sha256) == 64
    for title in ("packets/3", "other"):
        with pytest.raises(ModelError, match=f"no model {title}"):
            library.find(title)


def test_a_version_never_changes(tmp_path: Path) -> None:
    library, _ = published(tmp_path)
    library.add(library.find("packets/1"))
    other = model_folder(tmp_path / "other", data=graph(dtype="uint8"))
    with pytest.raises(ModelError, match="published already, with another model"):
        library.add(other)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    library = Library(tmp_path / "library")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ModelError, match="No space left"):
            library.add(model_folder(tmp_path / "made"))
    assert list(library.titles()) == []
    assert list((library.root / "packets").iterdir()) == []


@pytest.mark.parametrize(("name", "version"), [("..", "1"), ("a/b", "1"), ("a", "../../x"), ("a", "")])
def test_names_do_not_lead_out_of_the_library(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(ModelError, match="is no name"):
        Library(tmp_path).folder(name, version)


def test_the_default_library_is_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Library("").root == default_folder() == tmp_path / "flowgauge" / "models"


def test_an_announcement_says_what_is_live(tmp_path: Path) -> None:
    _, message = published(tmp_path, scores={"accuracy": 0.9}, created="2026-11-22T10:00:00+00:00")
    record = decode("ModelVersion", message)
    assert json.loads(record["card"])["scores"] == {"accuracy": 0.9}
    assert record["created_ns"] == 1795341600 * 10**9
    told = parse(b"packets", message)
    assert (told.name, told.version, told.kind, told.classes) == ("packets", "1", "svm", CLASSES)
    assert parse(b"packets", None).version == ""


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_message_is_an_announcement_or_a_problem(key: bytes, value: bytes) -> None:
    told = parse(key, value)
    assert told.problem or told.version == ""


def loaded(tmp_path: Path, library: Library, message: bytes) -> str:
    """Return the title of what is loaded, or why nothing is."""
    settings = PacketModelSettings(library=str(library.root), max_batch=8)
    try:
        return load(settings, parse(b"packets", message)).card.title
    except ModelError as error:
        return str(error)


def test_what_is_announced_is_loaded_if_it_is_what_was_announced(tmp_path: Path) -> None:
    library, message = published(tmp_path)
    assert loaded(tmp_path, library, message) == "packets/1"
    record = decode("ModelVersion", message)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"sha256": "0" * 64}, "is damaged"),
        ({"version": "2"}, "no model card"),
        ({"version": "../.."}, "is no name"),
        ({"classes": ["a", "b"]}, "other classes than it was announced with"),
    ]
    for change, told in wrong:
        assert told in loaded(tmp_path, library, encode("ModelVersion", {**record, **change}))
    assert "cannot be read" in loaded(tmp_path, library, message[:20])
    (library.find("packets/1") / MODEL_FILE).write_bytes(b"x")
    assert "is damaged" in loaded(tmp_path, library, message)
    (library.find("packets/1") / CARD_FILE).unlink()
    assert "no model card" in loaded(tmp_path, library, message)


class FakeReader:
    """Announcements in the order in which polls find them."""

    def __init__(self, messages: list[bytes | None]) -> None:
        self._left = messages
        self.at_end = False

    def poll(self, timeout_s: float) -> object:
        if not self._left:
            self.at_end = True
            return None
        return parse(b"packets", self._left.pop(0))

    def __enter__(self) -> FakeReader:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_only_the_last_of_several_versions_is_loaded_beside_the_live_one(tmp_path: Path) -> None:
    library, first = published(tmp_path)
    card = library.add(model_folder(tmp_path / "made", version="2"))
    second = encode("ModelVersion", announcement(card, library.place("packets", "2"), 8))
    settings = PacketModelSettings(library=str(library.root), max_batch=8)
    messages: list[bytes | None] = [first, second]
    found: list[Change[PacketModel]] = []

    def take() -> int:
        change = live.poll()
        if change is not None:
            found.append(change)
        return len(found)

    with LiveModel(settings, BusSettings(), lambda _: FakeReader(messages)) as live:  # type: ignore[arg-type,return-value]
        wait_until(lambda: take() == 1, 20)
        messages.append(None)
        wait_until(lambda: take() == 2, 20)
    assert [(c.title, c.model is not None) for c in found] == [("packets/2", True), ("packets", False)]
    assert found[1].problem == "it was taken off the topic models"
