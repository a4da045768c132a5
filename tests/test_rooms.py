"""Imports point only down the list of rooms, and a gateway's rooms stay light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "schemas": {"schemas"},
    "producers": {"producers", "schemas"},
    "streams": {"streams", "producers", "schemas"},
    "models": {"models", "streams", "producers", "schemas"},
    "infra": {"infra", "schemas"},
    "flowgauge": {"flowgauge", "models", "streams", "producers", "schemas", "infra"},
}
HEAVY = {"faust", "aiokafka", "mode", "river", "tensorflow", "keras", "pyarrow", "uvloop", "pandas"}


def imported(path: Path) -> set[str]:
    """Return the first names of all modules that a file imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := (imported(path) & set(MAY_IMPORT)) - MAY_IMPORT[room])
    }
    assert wrong == {}


@pytest.mark.parametrize("room", ["schemas", "producers"])
def test_a_gateway_needs_nothing_heavy(room: str) -> None:
    heavy = {str(path): imported(path) & HEAVY for path in (ROOT / room).rglob("*.py")}
    assert {path: found for path, found in heavy.items() if found} == {}


def test_modules_stay_small() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
    }
    assert {path: lines for path, lines in sizes.items() if lines > 500} == {}
