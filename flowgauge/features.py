"""What ``flowgauge feature`` does: list, start and check features."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from flowgauge.settings import Effective
from schemas.errors import InputError, SettingsError
from streams.config import StreamsSettings
from streams.feature import Feature, available_features, load_feature_module
from streams.user_features import load_file, user_features

DEPTH = 8


def show_list(effective: Effective, as_json: bool) -> int:
    """Print every feature with its level, what it needs and what it costs."""
    own = user_features(effective.get("streams", StreamsSettings).feature_files)
    modules = {name: load_feature_module(name) for name in available_features()} | own
    found = [described(module) for _, module in sorted(modules.items())]
    if as_json:
        print(json.dumps({"features": found}))
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head, justify in (("feature", "left"), ("level", "left"), ("state", "right"), ("columns", "right")):
        table.add_column(head, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("needs", no_wrap=True)
    table.add_column("units", overflow="fold")
    for row in found:
        cells = (row["name"], row["level"], f"{row['state_bytes']} B", str(len(row["columns"])))
        units = ", ".join(sorted({column["unit"] for column in row["columns"]}))
        table.add_row(*cells, " ".join(row["needs"]), units)
    Console().print(table)
    return 0


def described(module: ModuleType) -> dict[str, Any]:
    """Return what a feature declares, for a depth of 8 packets."""
    feature: Feature = module.FEATURE
    needs = feature.needs(DEPTH)
    return {
        "name": feature.name,
        "level": feature.level,
        "doc": feature.doc,
        "state_bytes": feature.dtype(DEPTH).itemsize if feature.state(DEPTH) else 0,
        "needs": ["tcp"] * needs.tcp
        + [f"head:{needs.head_packets}x{needs.head_octets}"] * bool(needs.head_packets),
        "columns": [column._asdict() for column in feature.columns(DEPTH)],
    }


def write_new(name: str, folder: Path) -> Path:
    """Write a feature to start from; raises SettingsError for a name, InputError for a file that cannot be."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise SettingsError(
            f"{name!r}: a feature's name is lower-case letters, digits and underscores, at most 40"
        )
    if name in available_features():
        raise SettingsError(f"{name}: a feature of that name is shipped")
    path = folder / f"{name}.py"
    text = files("flowgauge").joinpath("feature_template.py.in").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("@NAME@", name))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def check_file(path: Path, as_json: bool) -> int:
    """Check a feature file alone and inside a kernel, and print what it costs; raises SettingsError if refused."""
    from streams.kernel_check import check_in_kernel

    module = load_file(str(path))
    for problem in check_in_kernel((module.FEATURE.name,), (str(path),)):
        raise SettingsError(f"{path}: {problem}")
    found = described(module)
    if as_json:
        print(json.dumps({"file": str(path), **found}))
    else:
        columns = ", ".join(f"{column['name']} ({column['unit']})" for column in found["columns"][:8])
        more = len(found["columns"]) - 8
        print(f"{path}: {found['name']} ({found['level']}) is fine")
        columns += f" and {more} more" if more > 0 else ""
        print(f"  state {found['state_bytes']} bytes a flow; columns {columns}")
        if found["needs"]:
            print(f"  needs packet columns that probes send for it: {' '.join(found['needs'])}")
    return 0
