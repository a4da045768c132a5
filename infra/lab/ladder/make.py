"""Makes the capture of the resolution task: sessions behind lines whose rate changes, and what each showed when."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.lab.app import load_apps
from infra.lab.labels import Flow, Judge
from infra.lab.ladder.app import COLUMNS, SCENARIO, TRUTH
from infra.lab.make import Course, Summary, make
from infra.lab.plan import CLIENTS
from infra.lab.shaper import made_trace

_BETWEEN_S = 2.0
"""What a session may take beside its playing time: to connect, and to end."""
Row = dict[str, str]


def make_video(
    out: Path,
    name: str,
    *,
    sessions: int,
    seconds: float,
    seed: int,
    snap_length: int,
    tell: Callable[[str], None],
) -> Summary:
    """Write ``out/name.pcap.gz``, ``name.labels.csv`` (a flow's resolution) and ``name.windows.csv`` (each second's).

    Raises:
        FlowgaugeError: the lab cannot run here, or nothing was played.
    """
    clients = min(sessions, CLIENTS)
    whole_s = math.ceil(sessions / clients) * (seconds + _BETWEEN_S)
    scenario = {"sessions": sessions, "seconds": seconds, "clients": clients}

    def prepare(folder: Path) -> None:
        (folder / SCENARIO).write_text(json.dumps(scenario), encoding="utf-8")

    def judge(folder: Path, flows: list[Flow]) -> Judge:
        rows = _rows(folder / TRUTH)
        with (out / f"{name}.windows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return judge_of(rows)

    rates = {client: made_trace(f"{seed}/{client}", whole_s + 30) for client in range(clients)}
    course = Course(rates=rates, prepare=prepare, judge=judge)
    return make(
        load_apps(["ladder.app"]), out, name, seconds=whole_s, seed=seed, snap_length=snap_length, tell=tell,
        clients=clients, course=course,
    )  # fmt: skip


def _rows(folder: Path) -> list[Row]:
    out: list[Row] = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            out += csv.DictReader(file, COLUMNS)
    return out


def judge_of(rows: Sequence[Row]) -> Judge:
    """Return what labels a flow with the resolution that its session showed longest, as ``720p``."""
    shown: dict[tuple[str, str, int, int, int], Counter[str]] = {}
    for row in rows:
        ports = (int(row["source_port"]), int(row["destination_port"]))
        key = (row["source_address"], row["destination_address"], *ports, int(row["protocol"]))
        if row["resolution"]:
            shown.setdefault(key, Counter())[f"{row['resolution']}p"] += 1

    def judge(flow: Flow) -> str | None:
        found = shown.get((*_ends(flow), flow.protocol))
        return found.most_common(1)[0][0] if found else None

    return judge


def _ends(flow: Flow) -> tuple[str, str, int, int]:
    return flow.source[0], flow.destination[0], flow.source[1], flow.destination[1]
