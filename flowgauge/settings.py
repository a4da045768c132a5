"""The effective settings: one TOML file, the environment and flags over each component's defaults.

A flag beats the environment, the environment beats the file, the file beats the default. Each component
declares its own section (``producers.config``, ``streams.config``, …); this module only merges, checks and
remembers where each value came from.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flowgauge.settings_values import is_secret, nested_settings, parse_text, what_is_allowed
from producers.privacy.keys import VARIABLE
from schemas.errors import InputError, SettingsError
from schemas.settings import Settings

SECTIONS: dict[str, str] = {
    "bus": "producers.config:BusSettings",
    "packets": "producers.config:PacketsSettings",
    "replay": "producers.config:ReplaySettings",
    "probe": "producers.probe.config:ProbeSettings",
    "spool": "producers.spool.config:SpoolSettings",
    "privacy": "producers.privacy.config:PrivacySettings",
    "payloads": "producers.config:PayloadSettings",
    "streams": "streams.config:StreamsSettings",
    "models": "models.online.config:OnlineSettings",
    "packet_models": "models.packet.config:PacketModelSettings",
    "cascade": "models.flow.config:CascadeSettings",
    "record": "flowgauge.recording.config:RecordSettings",
}
"""Section of the settings file to the class that declares it, as ``module:class``."""

DEFAULT_FILE = "flowgauge.toml"
PREFIX = "FLOWGAUGE_"
NOT_SETTINGS = frozenset(
    {"FLOWGAUGE_CONFIG", "FLOWGAUGE_DEBUG", "FLOWGAUGE_CI", "FLOWGAUGE_CACHE_DIR", "FLOWGAUGE_VENV", VARIABLE}
)
"""Environment variables of ours that are not keys of a section."""

_S = TypeVar("_S", bound=Settings)

KeyPath = tuple[str, ...]
"""Section, key and, where a key is a table of settings, the key in it."""


@dataclass(frozen=True)
class Origin:
    """Where a value came from: ``kind`` is default, file, environment or flag; ``where`` names it."""

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".rstrip()


DEFAULT = Origin("default")


@dataclass(frozen=True)
class Effective:
    """Checked settings by section, and the origin of each value that is not a default, by dotted key."""

    sections: dict[str, Settings]
    origins: dict[str, Origin]
    config_file: Path | None

    def get(self, section: str, kind: type[_S]) -> _S:
        """Return a section's settings as the class that its component declares."""
        found = self.sections[section]
        if not isinstance(found, kind):
            raise TypeError(f"section {section} is a {type(found).__name__}, not a {kind.__name__}")
        return found

    def origin(self, key: str) -> Origin:
        """Return where the value of a dotted key came from (a table's values may come from its parts)."""
        return self.origins.get(key, DEFAULT)


def section_classes(names: Mapping[str, str] = SECTIONS) -> dict[str, type[Settings]]:
    """Import and return the class of each section."""
    out: dict[str, type[Settings]] = {}
    for section, target in names.items():
        module, _, name = target.partition(":")
        out[section] = getattr(importlib.import_module(module), name)
    return out


def find_file(given: Path | None, environment: Mapping[str, str]) -> tuple[Path | None, str]:
    """Return the settings file to read, and who named it: flag, environment or current directory."""
    if given is not None:
        return given, "--config"
    if environment.get("FLOWGAUGE_CONFIG"):
        return Path(environment["FLOWGAUGE_CONFIG"]), "FLOWGAUGE_CONFIG"
    here = Path(DEFAULT_FILE)
    return (here, "the current directory") if here.is_file() else (None, "")


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    classes: Mapping[str, type[Settings]] | None = None,
) -> Effective:
    """Return the effective settings.

    Args:
        config: the settings file of ``--config``; without it ``FLOWGAUGE_CONFIG``, then ``./flowgauge.toml``.
        flags: dotted key to value, for flags that were given (None means not given).
        assignments: ``section.key=value`` texts of ``--set``.
        environment: variables to read; the process's own by default.
        classes: section to settings class; the project's own by default.

    Raises:
        InputError: the file cannot be read.
        SettingsError: not TOML, an unknown key or a value that is not allowed; names file, key and value.
    """
    environment = os.environ if environment is None else environment
    classes = section_classes() if classes is None else classes
    path, named_by = find_file(config, environment)
    merged: dict[str, Any] = {section: {} for section in classes}
    origins: dict[str, Origin] = {}
    if path is not None:
        _merge_file(merged, origins, path, named_by, classes)
    _merge_environment(merged, origins, environment, classes)
    for assignment in assignments:
        _assign(merged, origins, assignment, classes)
    for key, value in (flags or {}).items():
        if value is not None:
            _put(merged, origins, tuple(key.split(".")), value, Origin("flag", _flag_name(key)))
    unknown = [section for section in merged if section not in classes]
    if unknown:
        raise _unknown(unknown[0], origins, sorted(classes))
    sections = {name: _validate(name, kind, merged[name], origins) for name, kind in classes.items()}
    return Effective(sections, origins, path)


def _merge_file(
    merged: dict[str, Any],
    origins: dict[str, Origin],
    path: Path,
    named_by: str,
    classes: Mapping[str, type[Settings]],
) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read the settings file ({named_by}): {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    origin = Origin("file", str(path))
    for key, value in _leaves(tables, classes):
        _put(merged, origins, key, value, origin)


def _leaves(
    table: Mapping[str, Any], classes: Mapping[str, type[Settings]], above: KeyPath = ()
) -> Iterator[tuple[KeyPath, Any]]:
    """Yield (path, value) of every value of a key; a table is a value where its key is declared as one."""
    for key, value in table.items():
        path = (*above, key)
        field = _field(classes, path)
        inside = len(path) == 1 or (field is not None and nested_settings(field.annotation) is not None)
        if isinstance(value, dict) and value and inside:
            yield from _leaves(value, classes, path)
        else:
            yield path, value


def _merge_environment(
    merged: dict[str, Any],
    origins: dict[str, Origin],
    environment: Mapping[str, str],
    classes: Mapping[str, type[Settings]],
) -> None:
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        field = _field(classes, path)
        if field is None:
            raise SettingsError(
                f"environment variable {name}: there is no key {'.'.join(path)}; "
                f"{PREFIX}<SECTION>__<KEY> sets a key of {_section_list(classes)}{_keys_of(classes, path)}"
            )
        _put(merged, origins, path, parse_text(environment[name], field), Origin("environment", name))


def _assign(
    merged: dict[str, Any],
    origins: dict[str, Origin],
    assignment: str,
    classes: Mapping[str, type[Settings]],
) -> None:
    key, equals, text = assignment.partition("=")
    path = tuple(key.strip().split("."))
    if not equals:
        raise SettingsError(f"--set {assignment}: write it as section.key=value")
    field = _field(classes, path)
    if field is None:
        raise SettingsError(f"--set {assignment}: there is no key {key.strip()}{_keys_of(classes, path)}")
    if is_secret(field):
        raise SettingsError(
            f"--set {key.strip()}: not on the command line, where every user of this machine can read it; "
            f"{key.strip()}_file names a file, {PREFIX}{'__'.join(path).upper()} is the variable"
        )
    _put(merged, origins, path, parse_text(text.strip(), field), Origin("flag", "--set"))


def _section_list(classes: Mapping[str, type[Settings]]) -> str:
    return ", ".join(f"[{section}]" for section in classes)


def _keys_of(classes: Mapping[str, type[Settings]], path: KeyPath) -> str:
    kind = classes.get(path[0])
    return f" ([{path[0]}] has {', '.join(sorted(kind.model_fields))})" if kind else ""


def _field(classes: Mapping[str, type[Settings]], path: KeyPath) -> FieldInfo | None:
    """Return the declared field of a key path, None if there is none (a section is no field)."""
    kind = classes.get(path[0])
    found: FieldInfo | None = None
    for part in path[1:]:
        if kind is None or part not in kind.model_fields:
            return None
        found = kind.model_fields[part]
        kind = nested_settings(found.annotation)
    return found


def _put(
    merged: dict[str, Any], origins: dict[str, Origin], path: KeyPath, value: Any, origin: Origin
) -> None:
    *tables, last = path
    at = merged
    for table in tables:
        below = at.setdefault(table, {})
        if not isinstance(below, dict):  # a table where an earlier source gave a plain value
            below = at[table] = {}
        at = below
    at[last] = value
    origins[".".join(path)] = origin


def _flag_name(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _validate(section: str, kind: type[Settings], values: Any, origins: Mapping[str, Origin]) -> Settings:
    if not isinstance(values, dict):
        raise SettingsError(f"{_place(section, origins)}{section} is a table of keys, not {values!r}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(section, kind, error, origins) from error


def _explain(
    section: str, kind: type[Settings], error: ValidationError, origins: Mapping[str, Origin]
) -> SettingsError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join([section, *path])
    if first["type"] == "extra_forbidden":
        above: type[Settings] | None = kind
        for part in (part for part in path[:-1] if not part.isdigit()):
            field = above.model_fields.get(part) if above else None
            above = nested_settings(field.annotation) if field else None
        return _unknown(key, origins, sorted(above.model_fields) if above else [])
    if first["type"] == "missing":
        return SettingsError(f"{_place(key, origins)}{key} is missing")
    allowed = what_is_allowed(first)
    if not path:  # a rule about several keys together
        return SettingsError(f"{_place(section, origins)}[{section}]: {allowed}")
    field = _field({section: kind}, tuple(key.split(".")))
    given = "(hidden)" if field is not None and is_secret(field) else repr(first["input"])
    return SettingsError(f"{_place(key, origins)}{key} = {given}: {allowed}")


def _unknown(key: str, origins: Mapping[str, Origin], known: list[str]) -> SettingsError:
    hint = f"; known here: {', '.join(known)}" if known else ""
    return SettingsError(f"{_place(key, origins)}unknown key {key}{hint}")


def _place(key: str, origins: Mapping[str, Origin]) -> str:
    """Return ``file: `` or the like for the source of a key, of a key below it, or of the table above it."""
    for candidate, origin in origins.items():
        if candidate == key or candidate.startswith(f"{key}.") or key.startswith(f"{candidate}."):
            return f"{origin.where}: " if origin.kind == "file" else f"{origin}: "
    return ""
