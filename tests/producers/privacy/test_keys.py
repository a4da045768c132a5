from __future__ import annotations

from pathlib import Path

import pytest

from producers.privacy.config import PrivacySettings
from producers.privacy.keys import VARIABLE, Key, find_key, read_key, write_key
from producers.privacy.privacy import open_privacy
from schemas.errors import InputError, SettingsError

DIGITS = "0123456789abcdef" * 4


def test_a_new_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = write_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path).octets == made.octets and made.fingerprint not in made.octets.hex()
    with pytest.raises(InputError, match="is there already"):
        write_key(path)
    with pytest.raises(InputError, match="No such file"):
        write_key(tmp_path / "no" / "key")


@pytest.mark.parametrize(
    "content", [DIGITS.encode(), DIGITS.upper().encode() + b"\r\n", bytes.fromhex(DIGITS)]
)
def test_forms_of_a_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o640)
    assert read_key(path).octets == bytes.fromhex(DIGITS)
    assert find_key(PrivacySettings(), {VARIABLE: DIGITS}).octets == bytes.fromhex(DIGITS)


@pytest.mark.parametrize(
    ("mode", "content", "says"),
    [
        (0o644, DIGITS, "mode is 0644"),
        (0o620, DIGITS, "mode is 0620"),
        (0o600, DIGITS[:-1], "holds no key"),
        (0o600, "", "holds no key"),
    ],
)
def test_files_that_are_no_keys(tmp_path: Path, mode: int, content: str, says: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=says) as error:
        read_key(path)
    assert str(path) in str(error.value) and DIGITS[:16] not in str(error.value)


def test_no_key_no_start(tmp_path: Path) -> None:
    hide = PrivacySettings(anonymise=True)
    with pytest.raises(SettingsError, match="no key"):
        open_privacy(hide, {})
    with pytest.raises(SettingsError, match=VARIABLE) as error:
        open_privacy(hide, {VARIABLE: "secret"})
    assert "secret" not in str(error.value)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SettingsError, match=str(path)):
            open_privacy(hide.model_copy(update={"key_file": str(path)}), {})
    assert open_privacy(PrivacySettings(), {}) is None
    assert open_privacy(PrivacySettings(names="hash"), {VARIABLE: DIGITS}) is not None


def test_keys_for_other_purposes_tell_nothing_of_the_key() -> None:
    key = Key(bytes.fromhex(DIGITS))
    assert len({key.octets, key.derived("a"), key.derived("b")}) == 3
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")


def test_prefixes_are_checked() -> None:
    with pytest.raises(ValueError, match="host bits"):
        PrivacySettings(only=("10.0.0.1/8",))
