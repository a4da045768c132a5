"""The effective settings as a commented TOML file that can be used as it is, and as a JSON object."""

from __future__ import annotations

import textwrap
from typing import Any

from flowgauge.settings import Effective
from flowgauge.settings_values import hidden, is_secret, toml_key, toml_value
from schemas.settings import Settings

_WIDTH = 110


def as_toml(effective: Effective) -> str:
    """Return the settings as TOML: above each key its doc and unit, behind it where its value came from."""
    read = f"settings file: {effective.config_file}" if effective.config_file else "no settings file"
    lines = [f"# Effective settings ({read}). Behind each value stands where it came from."]
    for name, section in effective.sections.items():
        lines += _table(name, section, effective)
    return "\n".join(lines) + "\n"


def _table(name: str, section: Settings, effective: Effective) -> list[str]:
    lines = ["", f"[{name}]"]
    dumped = section.model_dump(mode="json", exclude=set(_secrets(section)))
    dumped = {key: hidden(value) for key, value in dumped.items()}
    below: list[str] = []
    for key, field in type(section).model_fields.items():
        dotted, value = f"{name}.{toml_key(key)}", getattr(section, key)
        doc, origin = _comment(field.description or ""), effective.origin(f"{name}.{key}")
        if isinstance(value, Settings):
            below += _table(dotted, value, effective)
        elif value and isinstance(value, tuple) and all(isinstance(item, Settings) for item in value):
            below += ["", *doc, f"# {origin}", *_array_of_tables(dotted, value)]
        elif is_secret(field) and value is not None:
            lines += [*doc, f"# {toml_key(key)} is set, and hidden  # {origin}"]
        elif dumped.get(key) is None:
            lines += [*doc, f"# {toml_key(key)} is not set  # {origin}"]
        else:
            lines += [*doc, f"{toml_key(key)} = {toml_value(dumped[key])}  # {origin}"]
    return lines + below


def _array_of_tables(dotted: str, items: tuple[Settings, ...]) -> list[str]:
    """Return ``[[table]]`` blocks; only the first says what the keys mean."""
    lines: list[str] = []
    for number, item in enumerate(items):
        lines += [""] * bool(number) + [f"[[{dotted}]]"]
        for key, value in item.model_dump(mode="json").items():
            doc = type(item).model_fields[key].description if number == 0 else None
            lines += _comment(doc or "")
            lines += [f"{toml_key(key)} = {toml_value(value)}"] if value is not None else []
    return lines


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def as_object(effective: Effective) -> dict[str, Any]:
    """Return the settings as one object for ``--json``: file, values, and origins other than default."""
    return {
        "config_file": str(effective.config_file) if effective.config_file else None,
        "settings": {name: _object(section) for name, section in effective.sections.items()},
        "origins": {key: str(origin) for key, origin in sorted(effective.origins.items())},
    }


def _secrets(section: Settings) -> list[str]:
    return [key for key, field in type(section).model_fields.items() if is_secret(field)]


def _object(section: Settings) -> dict[str, Any]:
    secrets = {key: None if getattr(section, key) is None else "***" for key in _secrets(section)}
    shown = section.model_dump(mode="json", exclude=set(secrets))
    return {**{key: hidden(value) for key, value in shown.items()}, **secrets}
