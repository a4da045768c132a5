"""Values of settings: reading them from text, saying what a key allows, and writing them as TOML."""

from __future__ import annotations

import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from schemas.settings import Settings

_URL_ACCOUNT = re.compile(r"(\b\w+://)[^/@\s]*@")
_SECRET_NAME = re.compile(r"(password|secret|\.pem|jaas\.config)$", re.IGNORECASE)


def nested_settings(annotation: Any) -> type[Settings] | None:
    """Return the settings class that a field's type holds (itself, optional, in a list), or None."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    found = (nested_settings(part) for part in typing.get_args(annotation))
    return next((kind for kind in found if kind), None)


def is_secret(field: FieldInfo) -> bool:
    """Return whether a field's value is never shown."""
    return SecretStr in (field.annotation, *typing.get_args(field.annotation))


def hidden(value: Any) -> Any:
    """Return a plain value of a setting without the passwords that stand in it.

    That is the account in a URL, and what a table says under names such as ``sasl.password``.
    """
    if isinstance(value, str):
        return _URL_ACCOUNT.sub(r"\1***@", value)
    if isinstance(value, dict):
        return {k: "***" if _SECRET_NAME.search(str(k)) else hidden(v) for k, v in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list) else value


def _is_composite(annotation: Any) -> bool:
    """Return whether a field holds a list, tuple, set or table rather than one value."""
    origin = typing.get_origin(annotation) or annotation
    if origin in (typing.Union, types.UnionType):
        return any(_is_composite(part) for part in typing.get_args(annotation))
    return isinstance(origin, type) and issubclass(origin, (list, tuple, set, frozenset, Mapping, Settings))


def parse_text(text: str, field: FieldInfo) -> Any:
    """Return the value that an environment variable's text stands for.

    One value is taken as it is; a list or table is TOML (``[1, 8]``, ``{a = 1}``), or a list without brackets
    (``1, 8``).
    """
    if not _is_composite(field.annotation):
        return text
    for attempt in (text, f"[{text}]"):
        try:
            return tomllib.loads(f"value = {attempt}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return [part.strip() for part in text.split(",")]


def what_is_allowed(error: Mapping[str, Any]) -> str:
    """Return one line about what a key allows, from one of pydantic's errors."""
    message = str(error["msg"])
    for lead in ("Input ", "Value error, ", "Assertion failed, "):
        message = message.removeprefix(lead)
    return " ".join(message.split())


def toml_value(value: Any) -> str:
    """Return a plain value (of a model dumped as JSON) as TOML; tables come inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's too, save for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    raise TypeError(f"no TOML for a {type(value).__name__}")


def toml_key(key: str) -> str:
    """Return a key as TOML writes it, quoted where it must be."""
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else toml_value(key)
