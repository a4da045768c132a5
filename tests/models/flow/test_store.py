"""Cascades in an object store: published, found and fetched by checksum, as packet models are."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from flowgauge.cli import app
from models.flow.bundle import CASCADES
from models.flow.card import CASCADE_FILE, read_cascade_card
from models.flow.config import CascadeSettings
from models.flow.worker import load
from models.packet.announce import announcement, parse
from models.packet.errors import ModelError
from models.packet.store import StoredLibrary, cache_folder, open_library
from schemas.codec import encode
from tests.models.flow import made

pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.cascade_folder(tmp_path_factory.mktemp("cascades"))


@pytest.fixture(params=["memory", "file", "s3"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> StoredLibrary:
    root = {"memory": "memory://cascades", "file": (tmp_path / "store").as_uri()}
    where = root.get(request.param) or request.getfixturevalue("bucket")
    found = open_library(f"{where}/{uuid4().hex[:8]}", CASCADES)
    assert isinstance(found, StoredLibrary)
    return found


def test_a_cascade_is_published_found_and_fetched(library: StoredLibrary, folder: Path) -> None:
    card = library.add(folder)
    assert card == library.add(folder) == library.card("services", "1") == read_cascade_card(folder)
    assert list(library.titles()) == [("services", "1")]
    where = library.find("services")
    assert where.is_relative_to(cache_folder())
    assert {p.name: p.read_bytes() for p in where.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    with pytest.raises(ModelError, match="no cascade services/2; there is 1"):
        library.find("services/2")


def test_a_version_never_changes(library: StoredLibrary, folder: Path, tmp_path: Path) -> None:
    library.add(folder)
    with pytest.raises(ModelError, match="services/1: is published already"):
        library.add(made.cascade_folder(tmp_path / "other", wait_s=3))


def test_a_worker_loads_what_was_announced_by_its_checksum(library: StoredLibrary, folder: Path) -> None:
    card = library.add(folder)
    record = announcement(card, library.place("services", "1"), 7)
    settings = CascadeSettings(library=library.root, name="services")
    told = parse(b"services", encode("ModelVersion", record))
    assert load(settings, told).title == "services/1"
    where = library.find("services")
    library._store.rm(f"{library._path}/services", recursive=True)
    assert load(settings, told).title == "services/1", "the copy serves while the store is away"
    (where / "fast.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="no cascade card"):
        load(settings, told)
    library.add(folder)
    assert load(settings, told).title == "services/1", "a damaged copy is fetched anew"
    wrong = parse(b"services", encode("ModelVersion", {**record, "sha256": "0" * 64}))
    with pytest.raises(ModelError, match="is damaged"):
        load(settings, wrong)


def test_a_damaged_object_is_refused_and_not_kept(library: StoredLibrary, folder: Path) -> None:
    library.add(folder)
    library._store.pipe_file(f"{library._path}/services/1/slow.onnx", b"x")
    with pytest.raises(ModelError, match=rf"^{library.root}/services/1/slow\.onnx: is damaged"):
        library.fetch("services", "1")
    library._store.pipe_file(f"{library._path}/services/1/{CASCADE_FILE}", b"{")
    with pytest.raises(ModelError, match="not JSON"):
        library.fetch("services", "1")
    assert not list(cache_folder().rglob("*.onnx"))


def test_show_takes_a_url_and_leaves_the_names_of_octets_out(tmp_path: Path) -> None:
    where = f"memory://cascades/{uuid4().hex[:8]}"
    open_library(where, CASCADES).add(made.packet_cascade_folder(tmp_path))
    done = CliRunner().invoke(app, ["cascade", "show", "services", "--library", where], standalone_mode=False)
    told = json.loads(done.output)
    assert [tier["name"] for tier in told["tiers"]] == ["fast", "packet@4"] and "unknown" not in told
    assert ["columns" in tier for tier in told["tiers"]] == [True, False]
