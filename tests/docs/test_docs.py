"""The documentation builds without a warning, its reference is whole, and its commands can be run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from flowgauge.settings import load, section_classes
from models.online.config import ClassifierName, OnlineSettings
from schemas.codec import NAMES, schema
from schemas.topics import TOPICS
from streams.feature import available_features, load_feature
from tests.commandline import parse

pytest.importorskip("mkdocs")
recipe = pytest.importorskip("models.online.classifiers").recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*"), *ROOT.glob("infra/**/*.md"))
    if page.is_file()
]  # fmt: skip


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The module that makes the reference."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation; a broken link, anchor or page outside the navigation is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_has_the_generated_pages(site: Path, generate: ModuleType) -> None:
    for page in generate.PAGES:
        assert (site / page).with_suffix(".html").is_file(), page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?:[^\"]+)", text)
        assert loaded == [], page


def test_every_setting_is_told(generate: ModuleType) -> None:
    text = generate.settings()
    for section, kind in section_classes().items():
        for key, field in kind.model_fields.items():
            assert f"| `{key}`<br>`FLOWGAUGE_{section.upper()}__{key.upper()}` |" in text
            assert " ".join((field.description or "").split()).replace("|", "&#124;") in text, key


def test_every_topic_schema_column_and_feature_is_told(generate: ModuleType) -> None:
    assert all(f"| `{topic.name}` |" in generate.topics() for topic in TOPICS)
    schemas = generate.schemas()
    for name in NAMES:
        for field in schema(name)["fields"]:
            assert f"| `{field['name']}` |" in schemas
            assert field["doc"] in schemas
    features = generate.features()
    for name in available_features():
        for column in load_feature(name).columns(generate.EXAMPLE_DEPTH)[: generate.COLUMNS_TOLD]:
            assert f"| `{column.name}` | {column.unit} | {column.doc} |" in features


def test_every_command_and_flag_is_told(generate: ModuleType) -> None:
    text = generate.command_line()
    for name, command in generate._commands(generate.get_command(generate.app), "flowgauge"):
        assert f"\n## {name.removeprefix('flowgauge ')}\n" in text
        if not name.startswith("flowgauge broker"):
            assert all(
                option in text
                for parameter in command.params
                for option in parameter.opts[:1]
                if "-" in option
            )


@pytest.mark.parametrize(
    "name", ["packets_duplicate", "messages_set_aside", "labels_received", "flowgauge_items_total"]
)
def test_what_is_counted_is_told(generate: ModuleType, name: str) -> None:
    assert f"| `{name}` |" in generate.telemetry()


def test_every_classifier_is_advised_on() -> None:
    text = (ROOT / "docs" / "how-to" / "classifier.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(get_args(ClassifierName))


def toml_blocks() -> list[tuple[str, str]]:
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in re.findall(
            r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    ]


@pytest.mark.parametrize(("page", "block"), toml_blocks())
def test_documented_settings_are_settings(page: str, block: str, tmp_path: Path) -> None:
    file = tmp_path / "flowgauge.toml"
    file.write_text(block, encoding="utf-8")
    effective = load(file, environment={})
    assert effective.origins
    models = effective.get("models", OnlineSettings)
    recipe(models.classifier, models.parameters, models.seed)


def commands(page: Path) -> list[str]:
    """Return the command lines in the code of a page: what begins with ``flowgauge`` and names a subcommand."""
    text = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))
    if page.suffix == ".md":
        blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
        inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        text = "\n".join([*blocks, *inline])
    found = re.findall(r"(?:^|(?<=[\s/]))flowgauge ((?!\[)[a-z][^\n]*)", text, re.MULTILINE)
    return [
        re.split(r" +(?:#|>|&|\||&&|;)(?= |$)| {4,}|[;)]$", line)[0].strip().rstrip(".,;:`…")
        for line in found
    ]


def documented() -> list[tuple[str, str]]:
    return sorted({(str(page.relative_to(ROOT)), line) for page in PAGES for line in commands(page)})


def test_commands_are_found() -> None:
    found = documented()
    assert ("docs/tutorial.md", "tail predictions.flow --no-follow") in found
    assert len(found) > 40


@pytest.mark.parametrize(("page", "line"), documented())
def test_the_documented_command_can_be_parsed(page: str, line: str) -> None:
    words = [word for word in shlex.split(line) if word not in ("…", "...")]
    assert words[0] in {"broker", *known()}, "no such command"
    if any(word.startswith("-") for word in words) or len(words) > 1:
        parse(words)
    else:
        assert words[0] in known()


def known() -> set[str]:
    from typer.main import get_command

    from flowgauge.cli import app

    return set(get_command(app).commands)  # type: ignore[attr-defined]
