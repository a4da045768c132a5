"""The search's parts, and a small search on the demo capture."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowgauge import explore
from flowgauge.settings import load
from models.explore.costs import Costs, KindPrices
from models.explore.front import markdown, pareto, told
from models.explore.rows import BASE, Rows
from models.explore.scoring import make_judge
from models.explore.search import Choice, search
from models.explore.task import NAMED, Moment, find_task
from models.explore.truth import read_truth
from schemas.community_id import address_bytes
from schemas.errors import InputError, SettingsError
from schemas.flow_key import flow_id_of, hash_five_tuple, probe_hash_of
from streams.config import StreamsSettings
from streams.feature import available_features
from tests.conftest import ROOT

WINDOW = Moment("window", every_s=1.0)
A, B = address_bytes("10.0.0.1")[0], address_bytes("10.0.0.2")[0]


def made(count: int, seed: int = 0) -> Rows:
    """Rows of flows of two rows each, six hosts and three captures, with one column of one candidate."""
    rng = np.random.default_rng(seed)
    number = np.arange(count)
    source = np.zeros((count, 16), np.uint8)
    source[:, 3] = number // 2 % 6
    begin = number.astype(np.int64) * 10**9
    return Rows(
        values=rng.random((count, len(BASE) + 1)).astype(np.float32),
        owner=np.array([-1, -1, -1, -1, 0]),
        flow_id=(number // 2).astype(np.uint64),
        source=source,
        destination=np.tile(np.frombuffer(B, np.uint8), (count, 1)),
        ports=np.tile([1000, 443, 6], (count, 1)),
        begin_ns=begin,
        end_ns=begin + 10**9,
        capture=number * 3 // count,
        packets=10 * count,
        made=count,
    )


def costs(cpu_ns: float, state: float = 1.0) -> Costs:
    return Costs(cpu_ns, state, 1.0, 1.0)


def test_the_front_is_what_nothing_beats() -> None:
    best, cheap, beaten = (
        Choice(WINDOW, (0,), 0.9, costs(50)),
        Choice(WINDOW, (), 0.5, costs(10)),
        Choice(WINDOW, (1,), 0.4, costs(20)),
    )
    small = Choice(WINDOW, (2,), 0.4, costs(20, state=0.5))
    assert pareto([cheap, beaten, best], smaller_is_better=False) == [best, cheap]
    assert pareto([cheap, beaten, best, small], smaller_is_better=False) == [best, cheap, small]
    assert pareto([best, cheap, beaten], smaller_is_better=True) == [beaten, cheap]
    line = markdown([told(cheap, ())]).splitlines()[-1]
    assert line == "| 0.500 | window 1 s | 10 (sum) | 1 | 1.0 | 1 | (counts of packets and octets alone) |"


def test_prices_are_added_up() -> None:
    prices = KindPrices([80.0, 5.0, 7.0], [100, 24, 40], [10.0, 4.0, 6.0])
    assert prices.costs([1], rows_per_hour=1e9, decision_s=2.0) == Costs(87.0, 140, 16.0, 2.0)
    assert prices.costs([], rows_per_hour=1e9, decision_s=2.0) == Costs(80.0, 100, 10.0, 2.0)


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[tuple[Moment, tuple[int, ...]]] = []
    steps: list[tuple[int, int]] = []
    moments = (WINDOW, Moment("early", depth=4))

    def evaluate(moment: Moment, some: list[int]) -> tuple[float, Costs]:
        asked.append((moment, tuple(some)))
        return 0.1 * len(some), costs(10.0 * len(some))

    def run(trials: int, stop_after: int = 99) -> list[Choice]:
        return search(
            tmp_path, 3, moments, evaluate, [(WINDOW, (0, 1, 2)), (moments[1], ())], trials, False,
            lambda *done: steps.append(done), lambda: len(steps) >= stop_after,
        )  # fmt: skip

    first = run(12, stop_after=5)
    assert steps == [(n, 12) for n in range(1, 6)]
    assert asked[:2] == [(WINDOW, (0, 1, 2)), (moments[1], ())]
    before = len(asked)
    both = run(12)
    assert steps[5:] == [(n, 12) for n in range(6, 13)]
    assert both[: len(first)] == first
    assert len(asked) == len(set(asked)) == len(both) > before  # nothing is scored twice
    assert run(12) == both


def test_no_group_is_on_both_sides() -> None:
    rows = made(120)
    labels = np.array(["a", "b", "c"], object)[np.arange(120) // 2 % 3]
    task = NAMED["video"]
    for wanted, name, groups in (("capture", "capture", 3), ("host", "host", 6), ("flow", "flow", 60)):
        judge = make_judge(task.model_copy(update={"group_by": wanted}), rows, labels)
        assert (judge.group_by, len(set(judge.groups.tolist())), judge.folds) == (
            name,
            groups,
            min(5, groups),
        )
        for train, test in judge._splits(rows.values):
            assert not set(judge.groups[train].tolist()) & set(judge.groups[test].tolist())
    assert make_judge(task, rows, labels).group_by == "capture"
    # Hosts that each show one class only would leave nothing to train on.
    assert make_judge(task, replace(rows, capture=rows.capture * 0), labels).group_by == "flow"


def test_quality_is_seen() -> None:
    rows = made(120)
    value = rows.values[:, 4]
    labels = np.where(value > 0.5, "b", "a").astype(object)
    judge = make_judge(NAMED["video"], rows, labels)
    assert judge.score([0]) > 0.9 > judge.score([])
    numbers = make_judge(
        NAMED["video"].model_copy(update={"metric": "rmse"}), rows, value.astype(str).astype(object)
    )
    assert numbers.score([0]) < 0.1 < numbers.score([])


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a"] * 8, "8 rows have a label, only a"), ([""] * 8, "0 rows have a label, none")],
)
def test_too_few_labels_are_told(labels: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_judge(NAMED["video"], made(8), np.array(labels, object))


def test_labels_by_second_of_a_flow_and_by_capture(tmp_path: Path) -> None:
    rows = made(6)
    rows = replace(rows, source=np.tile(np.frombuffer(A, np.uint8), (6, 1)))
    spans = tmp_path / "windows.csv"
    head = "source_address,destination_address,source_port,destination_port,protocol,start_ns,end_ns,height\n"
    ends = "10.0.0.2,10.0.0.1,443,1000,6"  # told the other way round
    spans.write_text(
        f"{head}{ends},0,600000000,240\n{ends},600000000,2000000000,720\n{ends},3000000000,3400000000,480\n"
    )
    truth = read_truth([str(spans)], ["a.pcap"] * 3, "height")
    assert truth(rows).tolist() == ["240", "720", "", "", "", ""]
    table = tmp_path / "captures.csv"
    table.write_text("capture,quality\nx/exp_3.pcap,low\nexp_30.pcap,high\nc.pcap.gz,low\n")
    truth = read_truth([str(table)], ["in/A__exp_30__x.pcap.gz", "exp_3.pcap", "c.pcap.gz"], "quality")
    assert truth(rows).tolist() == ["high", "high", "low", "low", "low", "low"]
    with pytest.raises(InputError, match="no column nothere; there are capture, quality"):
        read_truth([str(table)], ["a"], "nothere")


def test_labels_by_flow(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    head = "source_address,destination_address,source_port,destination_port,protocol,start_ns,end_ns,label\n"
    path.write_text(f"{head}10.0.0.1,10.0.0.2,1000,443,6,5,9,web\n")
    known = flow_id_of(
        hash_five_tuple(np.frombuffer(A, np.uint8), np.frombuffer(B, np.uint8), 1000, 443, 6, 4),
        probe_hash_of("explore"),
        5,
    )
    rows = replace(made(4), flow_id=np.array([1, known, known, 2], np.uint64))
    assert read_truth([str(path)], ["a"], "label")(rows).tolist() == ["", "web", "web", ""]


def test_tasks_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there are video, attacks, or a \.toml file"):
        find_task("nope")
    with pytest.raises(InputError, match="No such file"):
        find_task(str(tmp_path / "nope.toml"))
    path = tmp_path / "task.toml"
    path.write_text('features = ["counters"]\n')
    with pytest.raises(SettingsError, match="a task tries periods_s"):
        find_task(str(path))
    path.write_text('features = ["counters"]\nperiods_s = [1.0, 5.0]\ndepths = [4]\n')
    assert [str(m) for m in find_task(str(path)).moments] == ["window 1 s", "window 5 s", "4 packets"]


@pytest.mark.parametrize("name", ["video", "attacks", "westermo"])
def test_the_worked_examples_are_tasks(name: str) -> None:
    task = find_task(str(ROOT / "examples" / "explore" / f"{name}.toml"))
    assert set(task.features) <= set(available_features())
    assert task.merge


def test_explore_writes_a_front_ready_to_run(demo_capture: Path, tmp_path: Path) -> None:
    task = tmp_path / "task.toml"
    task.write_text('features = ["counters"]\nperiods_s = [1.0]\n')
    labels = str(demo_capture).replace(".pcap.gz", ".labels.csv")
    out = tmp_path / "out"

    def run(captures: list[str]) -> int:
        return explore.run(
            load(None, environment={}), str(task), captures, [labels], [], out, {}, 3, 3, 1, as_json=False
        )

    assert run([str(demo_capture)]) == 0
    report = json.loads((out / "front.json").read_text())
    assert report["judged"]["group_by"] in ("host", "flow")
    assert {tuple(p["features"]) for p in report["tried"]} == {(), ("counters",)}
    with (out / "front.csv").open() as file:
        points = list(csv.DictReader(file))
    assert 1 <= len(points) <= 2
    for point in points:
        streams = load(out / point["settings"], environment={}).get("streams", StreamsSettings)
        (rep,) = streams.representations
        assert (rep.kind, rep.every_s, " ".join(rep.features)) == ("window", 1.0, point["features"])
        assert 0 <= float(point["quality"]) <= 1
    assert float(points[0]["cpu_ns"]) > 0
    assert (out / "front.svg").exists()
    assert "## Front" in (out / "front.md").read_text()
    with pytest.raises(SettingsError, match="another task or other files"):
        run([str(demo_capture)] * 2)
