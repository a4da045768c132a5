"""Where Numba keeps machine code: one folder per state of the source.

Numba notices that a function's own file changed, but not that a file changed whose functions it calls; after
an update it would go on with the old code of those. A folder named after all files that compiled code may come
from cannot be stale.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("schemas", "producers", "streams", "models/packet/lstm")
COMPILED = (b"njit", b"numba", b"schemas.compiled", b"@compiled", b"@inner")
"""What tells that a source holds compiled functions."""
KEPT = 3
"""Folders kept besides the one in use: other checkouts and versions may be running."""


def cache_root() -> Path:
    """Return the folder for compiled kernels: in the user's cache, or a temporary one if that is read-only."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "flowgauge"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    # A home that cannot be written to only costs a compilation per run.
    return Path(tempfile.mkdtemp(prefix="flowgauge-"))


_IMPORT = re.compile(rb"^\s*(?:from|import)\s+([\w.]+)(?:\s+import\s+(\([^)]*\)|[^\n]*))?", re.MULTILINE)


def source_digest() -> str:
    """Return a digest of every source file that compiled code may come from.

    Those are the files that import Numba and what they import, directly or not: a kernel takes functions and constants
    from there.
    """
    sources = _sources(Path(__file__).resolve().parent.parent)
    digest = hashlib.sha256()
    for name in sorted(_reached(sources)):
        digest.update(name.encode() + sources[name])
    return digest.hexdigest()[:16]


def _sources(top: Path) -> dict[str, bytes]:
    """Return the text of each module of the rooms by its dotted name, and of each template."""
    found = {}
    for room in ROOMS:
        for path in (top / room).rglob("*.py*"):
            if path.suffix in (".py", ".in"):
                parts = path.relative_to(top).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_bytes()
    return found


def _reached(sources: dict[str, bytes]) -> set[str]:
    """Return the modules and templates with compiled functions, and all that these import."""
    reached: set[str] = set()
    waiting = [name for name, text in sources.items() if any(mark in text for mark in COMPILED)]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += (other for other in _imports(sources[name]) if other in sources)
    return reached


def _imports(text: bytes) -> Iterator[str]:
    """Yield what a source may import: modules, and names in packages, which may be modules too."""
    for module, names in _IMPORT.findall(text):
        yield module.decode()
        for name in re.findall(rb"\w+", names):
            yield f"{module.decode()}.{name.decode()}"


def use_kernel_cache() -> None:
    """Point Numba at the folder of this source; call it before Numba is imported. A user's choice is kept."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    root = cache_root()
    folder = root / f"numba-{source_digest()}"
    folder.mkdir(exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    os.utime(folder)
    others = sorted(
        (f for f in root.glob("numba-*") if f != folder), key=lambda f: f.stat().st_mtime, reverse=True
    )
    for old in others[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
