"""The secret key: from a file or the environment, and never in a message."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from producers.privacy.config import PrivacySettings
from schemas.errors import InputError, SettingsError

KEY_OCTETS = 32
VARIABLE = "FLOWGAUGE_PRIVACY_KEY"
_HEX = re.compile(rb"[0-9a-fA-F]{64}")
_FORM = "64 hexadecimal digits, or 32 bytes in a file"


class Key:
    """A key of 32 bytes that does not show itself."""

    def __init__(self, octets: bytes) -> None:
        if len(octets) != KEY_OCTETS:
            raise ValueError(f"a key has {KEY_OCTETS} bytes")
        self.octets = octets

    def derived(self, purpose: str) -> bytes:
        """Return a key (32 bytes) for another purpose than addresses."""
        return hmac.digest(self.octets, purpose.encode(), "sha256")

    @property
    def fingerprint(self) -> str:
        """Return what tells keys apart without telling them, so that gateways can be compared."""
        return sha256(self.derived("flowgauge fingerprint")).hexdigest()[:16]

    def __repr__(self) -> str:
        return "Key(…)"


def find_key(settings: PrivacySettings, environment: Mapping[str, str] | None = None) -> Key:
    """Return the key of the settings' file or of the environment.

    Raises:
        SettingsError: there is none, it has not the form of one, or too many may read it.
    """
    if settings.key_file:
        return read_key(Path(settings.key_file))
    text = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not text:
        raise SettingsError(
            f"privacy: no key: make one with flowgauge privacy key FILE and set privacy.key_file, or set {VARIABLE}"
        )
    if not _HEX.fullmatch(text.strip().encode()):
        raise SettingsError(f"environment variable {VARIABLE} holds no key: {_FORM}")
    return Key(bytes.fromhex(text.strip()))


def read_key(path: Path) -> Key:
    """Return the key in a file.

    Raises:
        SettingsError: it cannot be read or holds no key, or others than its owner and group may read it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(KEY_OCTETS * 4) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise SettingsError(f"privacy.key_file {path}: {error.strerror or error}") from None
    if content is None:
        raise SettingsError(f"privacy.key_file {path}: is no file")
    if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        mode = stat.S_IMODE(status.st_mode)
        raise SettingsError(
            f"privacy.key_file {path}: its mode is {mode:04o}, so that others may read or change the key; "
            f"chmod 600 {path}"
        )
    if _HEX.fullmatch(content.strip()):
        return Key(bytes.fromhex(content.strip().decode()))
    if len(content) == KEY_OCTETS:
        return Key(content)
    raise SettingsError(f"privacy.key_file {path}: holds no key: {_FORM}")


def write_key(path: Path) -> Key:
    """Make a key and write it to a new file that only its owner may read.

    Raises:
        InputError: there is such a file already, or it cannot be written.
    """
    octets = secrets.token_bytes(KEY_OCTETS)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{path}: is there already; a key is never overwritten") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(f"{octets.hex()}\n")
        file.flush()
        os.fsync(file.fileno())
    return Key(octets)
