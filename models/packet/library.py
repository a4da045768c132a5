"""The library: the folder where published models lie, ``NAME/VERSION/``, for every worker that can read it.

A version is written once, whole or not at all, and never changed: whoever finds it finds all of it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.packet.card import (
    CARD_FILE,
    MODEL_FILE,
    NAME_PATTERN,
    ModelCard,
    card_text,
    digest_of,
    is_name,
    read_card,
)
from models.packet.errors import ModelError


@dataclass(frozen=True)
class Kind:
    """A kind of model: what it is called, what lies in the folder of each, and how that is checked."""

    name: str
    card_file: str
    read: Callable[[Path], ModelCard]
    """Reads the card of a folder, with its checksum; raises ModelError."""
    ready: Callable[[Path], tuple[ModelCard, bytes]]
    """The same, once the model's files are those that the card is of, and what the card's file in a library is to hold;
    raises ModelError."""


def ready_to_publish(source: Path) -> tuple[ModelCard, bytes]:
    """Return the card of a packet model's folder with the checksum of its model, and its file with that.

    Raises:
        ModelError: no model folder, or its model is not the one that its card is of.
    """
    card = read_card(source)
    try:
        sha256 = digest_of(source / MODEL_FILE)
    except OSError as error:
        raise ModelError(f"{source / MODEL_FILE}: {error.strerror}") from None
    if card.sha256 and card.sha256 != sha256:
        raise ModelError(f"{source / MODEL_FILE}: is damaged: its SHA-256 is not the one in its card")
    card = card.model_copy(update={"sha256": sha256})
    return card, card_text(card).encode()


PACKET_MODELS = Kind("model", CARD_FILE, read_card, ready_to_publish)


def default_folder() -> Path:
    """Return where the library is when the settings do not say: in the user's data folder."""
    home = os.environ.get("XDG_DATA_HOME", "")
    # A relative path is not valid there, says the XDG specification.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return base / "flowgauge" / "models"


class Library:
    """Published models of a kind in a folder."""

    def __init__(self, root: str | Path = "", kind: Kind = PACKET_MODELS) -> None:
        """Use a folder, empty: the default one."""
        self.root = Path(root) if str(root) else default_folder()
        self.kind = kind

    def folder(self, name: str, version: str) -> Path:
        """Return the folder of a version, which need not exist.

        Raises:
            ModelError: a name that would lead elsewhere.
        """
        return self.root / is_name(name) / is_name(version)

    def place(self, name: str, version: str) -> str:
        """Return where a version lies, for people; raises ModelError as ``folder``."""
        return str(self.folder(name, version))

    def fetch(self, name: str, version: str, sha256: str = "") -> Path:
        """Return the folder of a version, which is read where it lies; raises ModelError as ``folder``."""
        return self.folder(name, version)

    def card(self, name: str, version: str) -> ModelCard:
        """Return the card of a version; raises ModelError."""
        return self.kind.read(self.folder(name, version))

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield (name, version) of what is published, the newest version of a name last."""
        for path in sorted(
            self.root.glob(f"*/*/{self.kind.card_file}"), key=lambda p: (p.parts[-3], p.stat().st_mtime_ns)
        ):
            name, version = path.parts[-3:-1]
            if re.match(NAME_PATTERN, name) and re.match(NAME_PATTERN, version):
                yield name, version

    def find(self, title: str) -> Path:
        """Return the folder of ``NAME/VERSION``, or of the newest version of ``NAME``; raises ModelError without."""
        return self.folder(*version_of(self, title))

    def add(self, source: Path) -> ModelCard:
        """Copy a model folder into the library; return its card, with the checksum. Again is no change.

        Raises:
            ModelError: no model folder, or another model is published under that name and version.
        """
        card, data = self.kind.ready(source)
        target = self.folder(card.name, card.version)
        if (target / self.kind.card_file).exists():
            is_itself = target.resolve() == source.resolve()
            if not is_itself and self.kind.read(target).sha256 != card.sha256:
                raise is_another(target)
            return card
        try:
            _copy(source, target, card.files(), {self.kind.card_file: data})
        except OSError as error:
            raise ModelError(f"{error.filename or target}: {error.strerror or error}") from None
        return card


class Shelf(Protocol):
    """A library, wherever it is."""

    @property
    def root(self) -> Path | str:
        """Return where it is."""

    @property
    def kind(self) -> Kind:
        """Return what it holds."""

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield (name, version), the newest version of a name last."""


def version_of(library: Shelf, title: str) -> tuple[str, str]:
    """Return name and version of a published ``NAME/VERSION``, or of the newest version of ``NAME``.

    Raises:
        ModelError: there is none.
    """
    name, _, version = title.partition("/")
    versions = [v for n, v in library.titles() if n == name]
    if versions and version in ("", *versions):
        return name, version or versions[-1]
    there = f"; there is {', '.join(versions)}" if versions else ""
    raise ModelError(f"{library.root}: no {library.kind.name} {title}{there}")


def is_another(place: Path | str) -> ModelError:
    """Return the error that a version which never changes would have to."""
    return ModelError(f"{place}: is published already, with another model; give this one a new version")


def _copy(source: Path, target: Path, names: Iterable[str], made: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        for name in names:
            shutil.copyfile(source / name, part / name)
        for name, data in made.items():
            (part / name).write_bytes(data)
        for path in (*part.iterdir(), part):
            _sync(path)
        part.rename(target)
        _sync(target.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(part)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
