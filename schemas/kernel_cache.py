"""Where Numba keeps machine code: one folder per state of the source.

Numba notices that a function's own file changed, but not that a file changed whose functions it calls; after
an update it would go on with the old code of those. A folder named after the whole source cannot be stale.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

ROOMS = ("schemas", "producers", "streams")
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


def source_digest() -> str:
    """Return a digest of every source file that compiled code may come from."""
    top = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((top / room).rglob("*.py*")):
            if path.suffix in (".py", ".in"):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


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
