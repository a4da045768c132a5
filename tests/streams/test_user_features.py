"""Feature files of users: what is refused, and by which words; what is fine runs like the shipped ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge.features import write_new
from schemas.errors import InputError, SettingsError
from streams.engine import FeatureEngine
from streams.kernel_check import made_packets
from streams.user_features import load_file, user_features

TEXT = """
import numpy as np
from numba import njit
from streams.feature import Feature, FeatureColumn
FEATURE = Feature(name="{name}", doc="x.", level="network", state=lambda depth: [("n", {kind})],
    columns=lambda depth: [FeatureColumn("n", "1", "n")])
@njit
def update(state, packet):
    {update}
@njit(error_model="numpy")
def emit(state, totals, out, at):
    {emit}
"""


def written(
    folder: Path, update: str = "state.n += 1", emit: str = "out[at] = state.n", kind: str = '"u4"'
) -> str:
    path = folder / "own.py"
    path.write_text(TEXT.format(name="own", update=update, emit=emit, kind=kind))
    return str(path)


@pytest.mark.parametrize(
    ("update", "emit", "kind", "words"),
    [
        ("state.n += 1", "out[at] = state.n / (state.n - state.n)", '"u4"', "column n is (inf|nan)"),
        ("state.n += len(np.ones(packet.octets % 7))", "out[at] = state.n", '"u4"', "allocates memory"),
        ("a = [1]; a.append(2); state.n += len(a)", "out[at] = state.n", '"u4"', "allocates memory"),
        ("assert packet.octets < 1000", "out[at] = state.n", '"u4"', "raises AssertionError"),
        ("state.n += packet.colour", "out[at] = state.n", '"u4"', "does not compile.*colour"),
        ("state.n += 1", "out[at] = state.n; out[at + 1] = 2", '"u4"', "outside its columns"),
        ("state.n += 1", "pass", '"u4"', "unwritten"),
        ("state.n += 1", "state.n += 1; out[at] = state.n", '"u4"', "emit changes the state"),
        ("pass", "out[at] = 0", '"O"', "Python objects"),
        ("pass", "out[at] = 0", '"u4", (100_000,)', "state of 400,000 octets"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, update: str, emit: str, kind: str, words: str) -> None:
    with pytest.raises(SettingsError, match=rf"own\.py: .*{words}"):
        load_file(written(tmp_path, update, emit, kind))


def test_files_that_are_no_feature_are_refused(tmp_path: Path) -> None:
    (tmp_path / "syntax.py").write_text("def (")
    (tmp_path / "empty.py").write_text("")
    for name, words in (("syntax", "SyntaxError"), ("empty", "no FEATURE"), ("missing", "cannot be read")):
        with pytest.raises(SettingsError, match=words):
            load_file(str(tmp_path / f"{name}.py"))


def test_the_template_is_a_feature_of_at_most_30_lines(tmp_path: Path) -> None:
    path = write_new("turns", tmp_path)
    assert len(path.read_text().splitlines()) <= 30
    engine = FeatureEngine(["turns", "counters"], kind="flow", feature_files=[str(path)])
    columns = made_packets(400)
    columns["tcp_flags"][:] = 0  # no connection ends, so each flow is one record
    flows = engine.table()
    rows = [row for _, part in [*flows.apply(columns), *flows.end_all()] for row in part["features"]]
    changes = 0
    for flow in range(len(columns["flow_hash"])):
        ways = columns["direction"][columns["flow_index"] == flow]
        changes += int((ways[1:] != ways[:-1]).sum())
    assert sum(row[0] for row in rows) == changes
    with pytest.raises(InputError):
        write_new("turns", tmp_path)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(TEXT.format(name="totals", update="state.n += 1", emit="out[at] = state.n", kind='"u4"'))
    with pytest.raises(SettingsError, match="another feature is named 'totals'"):
        user_features([str(path)])
