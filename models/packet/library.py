"""The library: the folder where published models lie, ``NAME/VERSION/``, for every worker that can read it.

A version is written once, whole or not at all, and never changed: whoever finds it finds all of it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from models.packet.card import (
    CARD_FILE,
    MODEL_FILE,
    NAME_PATTERN,
    ModelCard,
    digest_of,
    is_name,
    read_card,
    write_card,
)
from models.packet.errors import ModelError


def default_folder() -> Path:
    """Return where the library is when the settings do not say: in the user's data folder."""
    home = os.environ.get("XDG_DATA_HOME", "")
    # A relative path is not valid there, says the XDG specification.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return base / "flowgauge" / "models"


class Library:
    """Published models in a folder."""

    def __init__(self, root: str | Path = "", card_file: str = CARD_FILE) -> None:
        """Use a folder, empty: the default one; ``card_file`` is in the folder of each model of the kind."""
        self.root = Path(root) if str(root) else default_folder()
        self._card_file = card_file

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

    def titles(self) -> Iterator[tuple[str, str]]:
        """Yield (name, version) of what is published, the newest version of a name last."""
        for path in sorted(
            self.root.glob(f"*/*/{self._card_file}"), key=lambda p: (p.parts[-3], p.stat().st_mtime_ns)
        ):
            name, version = path.parts[-3:-1]
            if re.match(NAME_PATTERN, name) and re.match(NAME_PATTERN, version):
                yield name, version

    def find(self, title: str) -> Path:
        """Return the folder of ``NAME/VERSION``, or of the newest version of ``NAME``.

        Raises:
            ModelError: there is none.
        """
        name, _, version = title.partition("/")
        versions = [v for n, v in self.titles() if n == name]
        if version in versions:
            return self.folder(name, version)
        if versions and not version:
            return self.folder(name, versions[-1])
        raise ModelError(
            f"{self.root}: no model {title}" + (f"; there is {', '.join(versions)}" if versions else "")
        )

    def add(self, source: Path) -> ModelCard:
        """Copy a model folder into the library; return its card, with the checksum. Again is no change.

        Raises:
            ModelError: no model folder, or another model is published under that name and version.
        """
        card = ready_to_publish(source)
        target = self.folder(card.name, card.version)
        if (target / CARD_FILE).exists():
            is_itself = target.resolve() == source.resolve()
            if not is_itself and read_card(target).sha256 != card.sha256:
                raise ModelError(
                    f"{target}: is published already, with another model; give this one a new version"
                )
            return card
        try:
            _copy(source, target, card)
        except OSError as error:
            raise ModelError(f"{error.filename or target}: {error.strerror or error}") from None
        return card


def ready_to_publish(source: Path) -> ModelCard:
    """Return the card of a model folder with the checksum of its model.

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
    return card.model_copy(update={"sha256": sha256})


def _copy(source: Path, target: Path, card: ModelCard) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        shutil.copyfile(source / MODEL_FILE, part / MODEL_FILE)
        write_card(part, card)
        for path in (part / MODEL_FILE, part / CARD_FILE, part):
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
