"""A library in an object store: ``s3://bucket/folder`` or any other URL that fsspec knows, with copies kept here.

An object appears whole or not at all, but a version is several of them; so the card is written last, and a version
without its card is none. Readers keep what they fetched, by checksum, so that a worker starts where the store is away.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

from models.packet.card import ModelCard, is_name
from models.packet.errors import ModelError, one_line
from models.packet.library import PACKET_MODELS, Kind, Library, is_another, version_of
from schemas.errors import SettingsError

_Result = TypeVar("_Result")


def open_library(where: str, kind: Kind = PACKET_MODELS) -> Library | StoredLibrary:
    """Return the library of models of a kind that a setting names: a folder, or the URL of one in an object store.

    Raises:
        SettingsError: a URL of a kind that is not known, or what reads it is not installed.
    """
    return StoredLibrary(where, kind) if "://" in where else Library(where, kind)


def cache_folder() -> Path:
    """Return where fetched versions are kept: in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "flowgauge" / "models"


class StoredLibrary:
    """Published models in an object store. As ``Library``, but what is read lies in the cache."""

    def __init__(self, url: str, kind: Kind = PACKET_MODELS) -> None:
        """Use the folder at a URL; nothing is asked of the store yet."""
        self.kind = kind
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
            raise SettingsError(f"library {url}: {one_line(error)}") from None
        self.root = url.rstrip("/")
        self._cache = cache_folder() / hashlib.sha256(self.root.encode()).hexdigest()[:16]

    def place(self, name: str, version: str) -> str:
        """Return the URL of a version, which need not exist; raises ModelError for a name that leads elsewhere."""
        return f"{self.root}/{is_name(name)}/{is_name(version)}"

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield (name, version) of what is published, the newest version of a name last."""
        cards = self._asked(lambda: self._store.glob(f"{self._path}/*/*/{self.kind.card_file}"))
        written = self._asked(lambda: [self._store.modified(card) for card in cards])
        found = [(*card.split("/")[-3:-1], when) for card, when in zip(cards, written, strict=True)]
        for name, version, _ in sorted(found, key=lambda each: (each[0], each[2])):
            with suppress(ModelError):
                yield is_name(name), is_name(version)

    def card(self, name: str, version: str) -> ModelCard:
        """Return the card of a version as the store has it; raises ModelError."""
        with self._scratch(name, version) as folder:
            self._get(name, version, self.kind.card_file, folder)
            return self.kind.read(folder)

    def find(self, title: str) -> Path:
        """Return the fetched ``NAME/VERSION``, or newest version of ``NAME``; raises ModelError without one."""
        return self.fetch(*version_of(self, title))

    def fetch(self, name: str, version: str, sha256: str = "") -> Path:
        """Return the folder of a version in the cache; it is fetched unless it is there undamaged.

        Args:
            name: of the model.
            version: of the model.
            sha256: what the card's checksum must be; empty: any that its files have.

        Raises:
            ModelError: the store has no such version, does not answer, or has a damaged one.
        """
        self.place(name, version)
        kept = self._cache / name / version
        with suppress(ModelError, OSError):
            if self.kind.ready(kept)[0].sha256 == (sha256 or self.kind.read(kept).sha256):
                return kept
        with self._scratch(name, version) as folder:
            self._get(name, version, self.kind.card_file, folder)
            for file in self.kind.read(folder).files():
                self._get(name, version, file, folder)
            self.kind.ready(folder)
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(kept, ignore_errors=True)
                folder.rename(kept)
            except OSError as error:
                # Another worker of this host was quicker.
                if not (kept / self.kind.card_file).exists():
                    raise ModelError(f"{kept}: cannot be written: {error.strerror}") from None
        return kept

    def add(self, source: Path) -> ModelCard:
        """Copy a model folder into the library; return its card, with the checksum. Again is no change.

        Raises:
            ModelError: no model folder, another model of that name and version, or the store refuses it.
        """
        (card, data), card_file = self.kind.ready(source), self.kind.card_file
        place = f"{self._path}/{card.name}/{card.version}"
        if self._asked(lambda: self._store.exists(f"{place}/{card_file}")):
            if self.card(card.name, card.version).sha256 != card.sha256:
                raise is_another(self.place(card.name, card.version))
            return card
        self._asked(lambda: self._store.makedirs(place, exist_ok=True))
        for file in card.files():
            self._asked(partial(self._store.put_file, str(source / file), f"{place}/{file}"))
        self._asked(lambda: self._store.pipe_file(f"{place}/{card_file}", data))
        return card

    @contextmanager
    def _scratch(self, name: str, version: str) -> Iterator[Path]:
        """Give a new folder beside what is kept, gone afterwards unless it was moved.

        What is wrong with the files in it is told of the version's place in the store.
        """
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            folder = Path(mkdtemp(prefix=".", dir=self._cache))
        except OSError as error:
            raise ModelError(f"{self._cache}: cannot be written: {error.strerror}") from None
        try:
            yield folder
        except ModelError as error:
            raise ModelError(str(error).replace(str(folder), self.place(name, version))) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _get(self, name: str, version: str, file: str, folder: Path) -> None:
        place = self.place(name, version)
        path = f"{self._path}/{name}/{version}/{file}"
        try:
            self._store.get_file(path, str(folder / file))
        except FileNotFoundError:
            what = f"no {self.kind.name} card" if file == self.kind.card_file else "no such file"
            raise ModelError(f"{place}/{file}: {what}") from None
        except Exception as error:  # every store has its own
            raise ModelError(f"{place}/{file}: cannot be read: {one_line(error)}") from None

    def _asked(self, ask: Callable[[], _Result]) -> _Result:
        try:
            return ask()
        except Exception as error:  # every store has its own
            raise ModelError(f"{self.root}: {one_line(error)}") from None
