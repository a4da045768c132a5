"""A library in an object store: ``s3://bucket/folder`` or any other URL that fsspec knows, with copies kept here.

An object appears whole or not at all, but a version is two of them; so the card is written last, and a version without
its card is none. Readers keep what they fetched, by checksum, so that a worker starts where the store is away.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from models.packet.card import (
    CARD_FILE,
    MODEL_FILE,
    ModelCard,
    card_text,
    digest_of,
    is_name,
    read_card,
)
from models.packet.errors import ModelError
from models.packet.library import Library, ready_to_publish
from schemas.errors import SettingsError

_Result = TypeVar("_Result")


def open_library(where: str) -> Library | StoredLibrary:
    """Return the library that ``packet_models.library`` names: a folder, or the URL of one in an object store.

    Raises:
        SettingsError: a URL of a kind that is not known, or what reads it is not installed.
    """
    return StoredLibrary(where) if "://" in where else Library(where)


def cache_folder() -> Path:
    """Return where fetched versions are kept: in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "flowgauge" / "models"


class StoredLibrary:
    """Published models in an object store. As ``Library``, but what is read lies in the cache."""

    def __init__(self, url: str) -> None:
        """Use the folder at a URL; nothing is asked of the store yet."""
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise SettingsError(
                f"library {url}: fsspec is not installed: pip install 'flowgauge[store]'"
            ) from None
        try:
            # A listing that is kept would hide what another host has published since.
            self._store, self._path = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # a kind that needs a package, or that there is not
            raise SettingsError(f"library {url}: {_one_line(error)}") from None
        self.root = url.rstrip("/")
        self._cache = cache_folder() / hashlib.sha256(self.root.encode()).hexdigest()[:16]

    def place(self, name: str, version: str) -> str:
        """Return the URL of a version, which need not exist; raises ModelError for a name that leads elsewhere."""
        return f"{self.root}/{is_name(name)}/{is_name(version)}"

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield (name, version) of what is published, the newest version of a name last."""
        cards = self._asked(lambda: self._store.glob(f"{self._path}/*/*/{CARD_FILE}"))
        written = self._asked(lambda: [self._store.modified(card) for card in cards])
        found = [(*card.split("/")[-3:-1], when) for card, when in zip(cards, written, strict=True)]
        for name, version, _ in sorted(found, key=lambda each: (each[0], each[2])):
            with suppress(ModelError):
                yield is_name(name), is_name(version)

    def card(self, name: str, version: str) -> ModelCard:
        """Return the card of a version as the store has it; raises ModelError."""
        with _Scratch(self._cache) as folder:
            self._get(name, version, CARD_FILE, folder)
            return read_card(folder)

    def find(self, title: str) -> Path:
        """Return the fetched ``NAME/VERSION``, or newest version of ``NAME``; raises ModelError without one."""
        name, _, version = title.partition("/")
        versions = [v for n, v in self.titles() if n == name]
        if versions and version in ("", *versions):
            return self.fetch(name, version or versions[-1])
        there = f"; there is {', '.join(versions)}" if versions else ""
        raise ModelError(f"{self.root}: no model {title}{there}")

    def fetch(self, name: str, version: str, sha256: str = "") -> Path:
        """Return the folder of a version in the cache; it is fetched unless it is there undamaged.

        Args:
            name: of the model.
            version: of the model.
            sha256: what the model file must be; empty: what the card in the cache says.

        Raises:
            ModelError: the store has no such version, does not answer, or has a damaged one.
        """
        place, kept = self.place(name, version), self._cache / name / version
        with suppress(ModelError, OSError):
            if digest_of(kept / MODEL_FILE) == (sha256 or read_card(kept).sha256):
                return kept
        with _Scratch(self._cache) as folder:
            self._get(name, version, CARD_FILE, folder)
            self._get(name, version, MODEL_FILE, folder)
            found = digest_of(folder / MODEL_FILE)
            if found != read_card(folder).sha256:
                raise ModelError(f"{place}/{MODEL_FILE}: is damaged: its SHA-256 is not the one in its card")
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(kept, ignore_errors=True)
                folder.rename(kept)
            except OSError as error:
                # Another worker of this host was quicker.
                if not (kept / CARD_FILE).exists():
                    raise ModelError(f"{kept}: cannot be written: {error.strerror}") from None
        return kept

    def add(self, source: Path) -> ModelCard:
        """Copy a model folder into the library; return its card, with the checksum. Again is no change.

        Raises:
            ModelError: no model folder, another model of that name and version, or the store refuses it.
        """
        card = ready_to_publish(source)
        place = f"{self._path}/{card.name}/{card.version}"
        if self._asked(lambda: self._store.exists(f"{place}/{CARD_FILE}")):
            if self.card(card.name, card.version).sha256 != card.sha256:
                raise ModelError(
                    f"{self.place(card.name, card.version)}: is published already, with another model; "
                    "give this one a new version"
                )
            return card
        self._asked(lambda: self._store.makedirs(place, exist_ok=True))
        self._asked(lambda: self._store.put_file(str(source / MODEL_FILE), f"{place}/{MODEL_FILE}"))
        self._asked(lambda: self._store.pipe_file(f"{place}/{CARD_FILE}", card_text(card).encode()))
        return card

    def _get(self, name: str, version: str, file: str, folder: Path) -> None:
        place = self.place(name, version)
        path = f"{self._path}/{name}/{version}/{file}"
        try:
            self._store.get_file(path, str(folder / file))
        except FileNotFoundError:
            what = "no model card" if file == CARD_FILE else "no such file"
            raise ModelError(f"{place}/{file}: {what}") from None
        except Exception as error:  # every store has its own
            raise ModelError(f"{place}/{file}: cannot be read: {_one_line(error)}") from None

    def _asked(self, ask: Callable[[], _Result]) -> _Result:
        try:
            return ask()
        except Exception as error:  # every store has its own
            raise ModelError(f"{self.root}: {_one_line(error)}") from None


class _Scratch:
    """A new folder beside what is kept, gone afterwards unless it was moved."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def __enter__(self) -> Path:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            self._folder = Path(mkdtemp(prefix=".", dir=self._cache))
        except OSError as error:
            raise ModelError(f"{self._cache}: cannot be written: {error.strerror}") from None
        return self._folder

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
