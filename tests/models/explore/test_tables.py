"""Ready-made tables of flows: what their columns stand for, groups by spans, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from models.explore.tables import check_task, table_judge
from models.explore.task import Task
from schemas.errors import InputError, SettingsError

TASK = Task(
    features=("totals", "ttl"),
    whole_flow=True,
    columns={"counts": ("packets",), "totals": ("seconds", "kind"), "ttl": ("ttl",)},
    label_column="attack",
    merge={"0": "normal", "1": "attack", "2": ""},
    group_column="start",
    group_span=60.0,
    seconds_column="seconds",
)


def table(path: Path, rows: int = 400, *, opener: object = None) -> str:
    """A table in which ``ttl`` alone tells what is an attack."""
    rng = np.random.default_rng(1)
    lines = ["start,packets,seconds,kind,ttl,attack"]
    for n in range(rows):
        attack = int(rng.integers(0, 2))
        ttl = "" if n % 7 == 0 else str(64 - 10 * attack)
        lines.append(
            f"{10 * n}.5,{rng.integers(1, 9)},{0.5 + n % 3},{'udp' if n % 2 else 'tcp'},{ttl},{attack}"
        )
    lines.append("1,1,1,udp,1,2")
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def test_candidates_are_judged_by_their_columns(tmp_path: Path) -> None:
    judge, seconds = table_judge(TASK, [table(tmp_path / "a.csv.gz", 200), table(tmp_path / "b.csv", 300)])
    assert (judge.classes, judge.group_by, len(judge.labels)) == (("attack", "normal"), "start", 500)
    assert seconds == 1.5
    assert judge.rows.columns_of([]).shape == (500, 1)
    assert judge.rows.columns_of([0, 1]).shape == (500, 4)
    # Both tables tell of the same minutes, so those are the same groups.
    assert len(np.unique(judge.groups)) == 50
    assert judge.score([1]) > 0.85
    assert judge.score([0]) < 0.7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: no column packets, seconds, kind, ttl, start, attack"),
        ("start,packets,seconds,kind,ttl,attack\n1,2,3\n", "line 2: 3 fields, not 6"),
        ("start,packets,seconds,kind,ttl,attack\nx,1,1,1,1,1\n", "column start: "),
        (
            "start,packets,seconds,kind,ttl,attack\n1,1,nan,1,1,1\n",
            "column seconds: values that are no finite",
        ),
        ("start,packets,seconds,kind,ttl,attack\n1,1,1,1,1,1\n", "only attack: nothing to tell apart"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        table_judge(TASK, [str(path)])


def test_a_cut_file_and_a_missing_one_are_told(tmp_path: Path) -> None:
    path = Path(table(tmp_path / "t.csv.gz"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=str(path)):
        table_judge(TASK, [str(path)])
    with pytest.raises(InputError, match="No such file"):
        table_judge(TASK, [str(tmp_path / "none.csv")])


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"depths": (4,)}, "no depths"), ({"columns": {}}, "columns"), ({"group_column": ""}, "group_column")],
)
def test_tasks_that_do_not_fit_tables_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_task(TASK.model_copy(update=changed))


def test_columns_of_no_candidate_are_refused() -> None:
    with pytest.raises(ValueError, match="columns of nope: not among the features"):
        Task(features=("totals",), whole_flow=True, columns={"nope": ("a",)})
