"""Cascades on disk: a folder ``NAME/VERSION/`` with ``cascade.json`` and a file for each tier."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from models.flow.card import CASCADE_FILE, CascadeCard, TierCard, cascade_json, read_cascade_card, read_file
from models.flow.cascade import Cascade
from models.flow.errors import CascadeError
from models.flow.tiers import Tier, open_tier
from models.packet.card import digest_of
from models.packet.library import Kind
from schemas.errors import SettingsError


def open_cascade(folder: Path, sha256: str = "", *, skip_broken: bool = False) -> Cascade:
    """Load a cascade and try every tier out.

    Args:
        folder: ``NAME/VERSION/``.
        sha256: what the checksum of ``cascade.json`` must be; empty: any. The files of the tiers must always be those
            that it names.
        skip_broken: go without a tier that cannot be used as long as there is another; ``problems`` of the cascade
            then says why.

    Raises:
        CascadeError: it cannot be used; names the file and says why.
        SettingsError: what runs a tier is not installed.
    """
    card = read_cascade_card(folder)
    if sha256 and sha256 != card.sha256:
        raise CascadeError(
            f"{folder / CASCADE_FILE}: is damaged: its SHA-256 is {card.sha256[:12]}…, it was announced with "
            f"{sha256[:12]}…"
        )
    tiers: list[Tier | None] = []
    problems: dict[int, str] = {}
    for number, tier in enumerate(card.tiers):
        try:
            check_file(folder, tier)
            tiers.append(open_tier(tier, folder, len(card.classes)))
        except (CascadeError, SettingsError) as error:
            problems[number] = str(error)
            tiers.append(None)
            if not skip_broken or len(problems) == len(card.tiers):
                raise
    return Cascade(card, tuple(tiers), problems)


def check_file(folder: Path, tier: TierCard) -> None:
    """Raise CascadeError unless a tier's file is the one that the card names."""
    path = folder / tier.file
    try:
        actual = digest_of(path)
    except OSError as error:
        raise CascadeError(f"{path}: {error.strerror}") from None
    if actual != tier.sha256:
        raise CascadeError(
            f"{path}: is damaged: its SHA-256 is {actual[:12]}…, the cascade has {tier.sha256[:12]}…"
        )


def write_cascade(root: Path, card: CascadeCard, files: Mapping[str, bytes]) -> Path:
    """Write ``root/NAME/VERSION`` and return it; it appears whole or not at all. Again is no change.

    Args:
        root: folder of models, such as a library's.
        card: of the cascade.
        files: the tiers' models by file name.

    Raises:
        CascadeError: another cascade is there under that name and version, or the files are not the card's.
    """
    for tier in card.tiers:
        data = files.get(tier.file)
        if data is None or hashlib.sha256(data).hexdigest() != tier.sha256:
            raise CascadeError(f"{card.title}: tier {tier.name}: not the file that the card names")
    target = root / card.name / card.version
    if target.exists():
        if read_cascade_card(target).sha256 == hashlib.sha256(cascade_json(card)).hexdigest():
            return target
        raise CascadeError(f"{target}: is there already, with another cascade; give this one a new version")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        for name in card.files():
            _write(part / name, files[name])
        _write(part / CASCADE_FILE, cascade_json(card))
        part.rename(target)
    except OSError as error:
        raise CascadeError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(part)
    return target


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def ready_to_publish(source: Path) -> tuple[CascadeCard, bytes]:
    """Return the card of a cascade's folder and its file, which goes into a library as it is.

    Raises:
        CascadeError: no cascade, or a tier's file is not the one that the card names.
    """
    card = read_cascade_card(source)
    for tier in card.tiers:
        check_file(source, tier)
    data = read_file(source / CASCADE_FILE)
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise CascadeError(f"{source / CASCADE_FILE}: was changed while it was read")
    return card, data


CASCADES = Kind("cascade", CASCADE_FILE, read_cascade_card, ready_to_publish)
"""Cascades as a library holds them: a card's checksum is that of ``cascade.json``, which has those of the tiers."""
