"""Features that a user wrote: Python files named in ``streams.feature_files``, compiled as the shipped ones are."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from schemas.errors import SettingsError
from streams.feature import Feature, available_features


@cache
def load_file(path: str) -> ModuleType:
    """Return a feature file as a module, checked: what it computes is finite, repeatable and bounded.

    Raises:
        SettingsError: it cannot be read or run, is no feature, or fails a check; the message names file and fault.
    """
    from streams.feature_check import check_module

    module = run_file(path)
    for problem in check_module(module):
        raise SettingsError(f"{path}: {problem}")
    return module


def run_file(path: str) -> ModuleType:
    """Return a feature file as a module that has a ``FEATURE``; raises SettingsError if it is none."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    # The kernel imports it under a name made of its content, so that another content is another kernel.
    name = f"flowgauge_feature_{hashlib.sha256(text).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, Path(path).resolve())
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        raise SettingsError(f"{path}: {type(error).__name__}: {_first_line(error)}") from None
    if not isinstance(getattr(module, "FEATURE", None), Feature):
        raise SettingsError(f"{path}: has no FEATURE made with streams.feature.Feature")
    return module


def user_features(paths: Sequence[str]) -> dict[str, ModuleType]:
    """Return the modules of feature files by the names of their features; raises SettingsError as ``load_file``."""
    found: dict[str, ModuleType] = {}
    for path in paths:
        module = load_file(path)
        name = module.FEATURE.name
        if name in found or name in available_features():
            raise SettingsError(f"{path}: another feature is named {name!r}")
        found[name] = module
    return found


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "without a message")
