"""Ready-made tables of flows instead of captures: quality is judged on them, prices are measured on captures."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.explore.rows import Rows
from models.explore.scoring import Judge, make_judge
from models.explore.task import COUNTS, Task
from schemas.errors import InputError, SettingsError

_NS = 1e9


def check_task(task: Task) -> None:
    """Raise SettingsError where a task does not say what a table's columns stand for."""
    if task.periods_s or task.depths or not task.columns:
        raise SettingsError(
            "--tables: a task for tables has whole_flow = true, no periods_s and no depths, and columns"
        )
    if not task.group_column:
        raise SettingsError("--tables: a task for tables names group_column, which no two folds share")


def table_judge(task: Task, paths: Sequence[str]) -> tuple[Judge, float | None]:
    """Return the judge of the tables' rows, and their median duration in seconds if the task names its column.

    Raises:
        InputError: a table cannot be read, lacks a column, or its labels tell nothing apart.
    """
    told = [column for name in (COUNTS, *task.features) for column in task.columns.get(name, ())]
    wanted = list(dict.fromkeys([*told, task.group_column, task.label_column]))
    wanted += [task.seconds_column] if task.seconds_column and task.seconds_column not in wanted else []
    texts = _read(paths, wanted)
    rows = len(texts[task.label_column])
    groups = _groups(texts[task.group_column], task.group_span, task.group_column)
    owner = [-1 if name == COUNTS else task.features.index(name) for name in (COUNTS, *task.features)
             for _ in task.columns.get(name, ())]  # fmt: skip
    values = [_values(texts[column]) for column in told]
    nothing = np.zeros((rows, 16), np.uint8)
    spans = _numbers(texts[task.seconds_column], task.seconds_column) if task.seconds_column else None
    made = Rows(
        values=np.stack(values, axis=1).astype(np.float32) if values else np.zeros((rows, 0), np.float32),
        owner=np.array(owner, np.int64),
        flow_id=np.arange(rows).astype(np.uint64),
        source=nothing,
        destination=nothing,
        ports=np.zeros((rows, 3), np.int64),
        begin_ns=np.zeros(rows, np.int64),
        end_ns=np.zeros(rows, np.int64) if spans is None else (spans * _NS).astype(np.int64),
        capture=groups,
        packets=0,
        made=rows,
    )
    judge = make_judge(task, made, np.array(texts[task.label_column], object), task.group_column)
    return judge, None if spans is None else float(np.median(judge.rows.end_ns)) / _NS


def _read(paths: Sequence[str], columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of all tables, one behind the other."""
    out: dict[str, list[str]] = {name: [] for name in columns}
    for path in paths:
        opener: Callable[..., Any] = gzip.open if path.endswith(".gz") else open
        try:
            with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file, strict=True)
                head = next(lines, [])
                missing = [name for name in columns if name not in head]
                if missing:
                    raise InputError(f"{path}: line 1: no column {', '.join(missing)}")
                at = [head.index(name) for name in columns]
                for number, line in enumerate(lines, 2):
                    if len(line) != len(head):
                        raise InputError(f"{path}: line {number}: {len(line)} fields, not {len(head)}")
                    for name, i in zip(columns, at, strict=True):
                        out[name].append(line[i])
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a CSV file: {error}") from None
    return out


def _values(texts: list[str]) -> NDArray[np.float64]:
    """Return a column's numbers, NaN where there is none; other texts by their number in the alphabet."""
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.unique(np.array(texts), return_inverse=True)[1].astype(np.float64)


def _numbers(texts: list[str], name: str) -> NDArray[np.float64]:
    try:
        numbers = np.array(texts, np.float64)
    except ValueError as error:
        raise InputError(f"column {name}: {error}") from None
    if not np.isfinite(numbers).all():
        raise InputError(f"column {name}: values that are no finite numbers")
    return numbers


def _groups(texts: list[str], span: float, name: str) -> NDArray[np.int64]:
    values = np.floor(_numbers(texts, name) / span) if span else np.array(texts)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
