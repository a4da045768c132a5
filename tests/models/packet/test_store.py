"""The library in an object store: the same as in a folder, with checked copies kept here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from uuid import uuid4

import pytest

from models.packet.announce import announcement, parse
from models.packet.card import CARD_FILE, MODEL_FILE
from models.packet.config import PacketModelSettings
from models.packet.errors import ModelError
from models.packet.library import Library
from models.packet.live import load
from models.packet.store import StoredLibrary, cache_folder, open_library
from schemas.codec import encode
from schemas.errors import SettingsError
from tests.models.packet.made import graph, model_folder
from tests.waiting import wait_until

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["memory", "file", "s3"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> StoredLibrary:
    root = {
        "memory": "memory://models",
        "file": (tmp_path / "store").as_uri(),
        "s3": request.getfixturevalue("bucket") if request.param == "s3" else "",
    }[request.param]
    found = open_library(f"{root}/{uuid4().hex[:8]}")
    assert isinstance(found, StoredLibrary)
    return found


def test_a_model_is_published_found_and_fetched(library: StoredLibrary, tmp_path: Path) -> None:
    assert list(library.titles()) == []
    card = library.add(model_folder(tmp_path / "made", version="2"))
    second = int(time.time())  # S3 tells when an object was written by the second
    wait_until(lambda: int(time.time()) > second, 5)
    library.add(model_folder(tmp_path / "made", version="1"))
    assert list(library.titles()) == [("packets", "2"), ("packets", "1")], "the newest last"
    assert library.card("packets", "2") == card and len(card.sha256) == 64
    where = library.find("packets/2")
    assert where.is_relative_to(cache_folder())
    assert (where / MODEL_FILE).read_bytes() == graph()
    assert library.find("packets").name == "1"
    for title in ("packets/3", "other"):
        with pytest.raises(ModelError, match=f"no model {title}"):
            library.find(title)
    assert [path.name for path in where.parents[1].iterdir()] == ["packets"], "no scratch folder is left"


def test_a_version_never_changes(library: StoredLibrary, tmp_path: Path) -> None:
    library.add(model_folder(tmp_path / "made"))
    library.add(tmp_path / "made" / "packets" / "1")
    with pytest.raises(ModelError, match="published already, with another model"):
        library.add(model_folder(tmp_path / "other", data=graph(dtype="uint8")))


def test_a_version_without_its_card_is_none(library: StoredLibrary, tmp_path: Path) -> None:
    """The model is written before the card: whoever is interrupted between them has published nothing."""
    library.add(model_folder(tmp_path / "made"))
    library._store.rm_file(f"{library._path}/packets/1/{CARD_FILE}")
    assert list(library.titles()) == []
    with pytest.raises(ModelError, match="no model card"):
        library.fetch("packets", "1")
    assert library.add(tmp_path / "made" / "packets" / "1").title == "packets/1"
    assert library.fetch("packets", "1").is_dir()


def test_what_was_fetched_serves_without_the_store_until_it_is_damaged(
    library: StoredLibrary, tmp_path: Path
) -> None:
    card = library.add(model_folder(tmp_path / "made"))
    where = library.fetch("packets", "1", card.sha256)
    library._store.rm(f"{library._path}/packets", recursive=True)
    assert library.fetch("packets", "1", card.sha256) == where
    (where / MODEL_FILE).write_bytes(b"x")
    with pytest.raises(ModelError, match="no model card"):
        library.fetch("packets", "1", card.sha256)
    library.add(tmp_path / "made" / "packets" / "1")
    assert library.fetch("packets", "1", card.sha256) == where
    assert (where / MODEL_FILE).read_bytes() == graph()


def test_a_damaged_object_is_refused_and_not_kept(library: StoredLibrary, tmp_path: Path) -> None:
    library.add(model_folder(tmp_path / "made"))
    library._store.pipe_file(f"{library._path}/packets/1/{MODEL_FILE}", b"x")
    with pytest.raises(ModelError, match=r"model\.onnx: is damaged"):
        library.fetch("packets", "1")
    library._store.pipe_file(f"{library._path}/packets/1/{CARD_FILE}", b"{")
    with pytest.raises(ModelError, match="not JSON"):
        library.fetch("packets", "1")
    assert not list(cache_folder().rglob(MODEL_FILE))


@pytest.mark.parametrize(("name", "version"), [("..", "1"), ("a/b", "1"), ("a", "../../x"), ("a", "")])
def test_names_do_not_lead_out_of_the_library(name: str, version: str) -> None:
    library = open_library("memory://models/names")
    with pytest.raises(ModelError, match="is no name"):
        library.fetch(name, version)


def test_a_worker_loads_what_was_announced_out_of_the_store(library: StoredLibrary, tmp_path: Path) -> None:
    card = library.add(model_folder(tmp_path / "made"))
    record = announcement(card, library.place("packets", "1"), 7)
    assert record["uri"] == f"{library.root}/packets/1"
    settings = PacketModelSettings(library=library.root, max_batch=8)
    assert load(settings, parse(b"packets", encode("ModelVersion", record))).card.title == "packets/1"
    wrong = parse(b"packets", encode("ModelVersion", {**record, "sha256": "0" * 64}))
    with pytest.raises(ModelError, match="is damaged"):
        load(settings, wrong)


def test_stores_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    assert isinstance(open_library(str(tmp_path)), Library)
    with pytest.raises(SettingsError, match=r"library nosuch://x: .*nosuch"):
        open_library("nosuch://x")
    away = fsspec.config.conf.get("s3")
    fsspec.config.conf["s3"] = {"endpoint_url": "http://127.0.0.1:1", "key": "a", "secret": "b",
                                "config_kwargs": {"retries": {"max_attempts": 1}}}  # fmt: skip
    try:
        pytest.importorskip("s3fs")
        with pytest.raises(ModelError, match="s3://bucket/models: ") as error:
            list(open_library("s3://bucket/models").titles())
        assert "\n" not in str(error.value)
    finally:
        fsspec.config.conf.pop("s3")
        if away is not None:
            fsspec.config.conf["s3"] = away


def test_the_card_in_the_store_is_the_one_that_was_published(library: StoredLibrary, tmp_path: Path) -> None:
    card = library.add(model_folder(tmp_path / "made", scores={"accuracy": 0.9}))
    found = json.loads(library._store.cat_file(f"{library._path}/packets/1/{CARD_FILE}"))
    assert found == card.model_dump(mode="json")
