"""Machine code is kept as long as nothing changes that it may come from."""

from __future__ import annotations

from pathlib import Path

from schemas import kernel_cache

SOURCES = {
    "streams": b"",
    "streams.kernel": b"from numba import njit\nfrom streams.constants import (\n  ROOM,\n)\n"
    b"from schemas import flow_key\n",
    "streams.constants": b"import schemas.columns\nROOM = 4\n",
    "streams.agent": b"from streams.kernel import run\n",
    "schemas.flow_key": b"    from schemas.late import name\n",
    "schemas.columns": b"",
    "schemas.late": b"",
    "schemas.codec": b"from streams import kernel\n",
}


def test_what_kernels_import_counts_and_who_imports_them_does_not() -> None:
    assert kernel_cache._reached(SOURCES) == {
        "streams.kernel", "streams.constants", "schemas.flow_key", "schemas.columns", "schemas.late",
    }  # fmt: skip


def test_the_sources_that_hold_kernels_are_found() -> None:
    sources = kernel_cache._sources(Path(kernel_cache.__file__).parents[1])
    reached = kernel_cache._reached(sources)
    assert {
        "producers.decoder.kernel",
        "streams.kernel.py",
        "streams.constants",
        "schemas.flow_key",
    } <= reached
    assert not {"producers.bus", "streams.agent", "streams.faust_app"} & reached
