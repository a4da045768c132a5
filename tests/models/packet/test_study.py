"""A study interrupted and resumed gives the same report; its files are whole; what is wrong is said in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from models.packet.budgets import KINDS
from models.packet.dataset import PacketDataset
from models.packet.study import speeds
from models.packet.study.plan import Plan, checked, quick, settle
from models.packet.study.points import Key, read_point, read_weights
from models.packet.study.report import write_report
from models.packet.study.run import _groups, best_rates, run
from models.packet.training import Recipe, parts
from schemas.errors import InputError, SettingsError
from tests.models.packet.study_data import dataset

PLAN = Plan(kinds=("svm",), budgets=(15_000,), seeds=2)
_ROOT = Path(__file__).parents[3]
_KILLED_AFTER = 5
_CHILD = """
import os, signal, sys
from pathlib import Path
from models.packet.budgets import KINDS
from models.packet.dataset import PacketDataset
from models.packet.study.plan import Plan, settle
from models.packet.study.run import run
def told(key, finished, epoch):
    if finished == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
made, out = PacketDataset.open(sys.argv[1]), Path(sys.argv[2])
plan = Plan(kinds=("svm",), budgets=(15_000,), seeds=2)
settle(out, plan, made)
run(made, out, plan, lambda: False, told)
"""


def _report(made: PacketDataset, folder: Path, plan: Plan = PLAN) -> dict[str, bytes]:
    study = settle(folder, plan, made)
    points = run(made, folder, plan, lambda: False, lambda *_: None)
    assert points is not None
    write_report(folder, study, points, {})
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_killed_and_resumed_gives_the_same_report(tmp_path: Path) -> None:
    made = dataset(tmp_path / "data")
    whole = _report(made, tmp_path / "whole")
    command = [sys.executable, "-c", _CHILD, str(made.path), str(tmp_path / "cut"), str(_KILLED_AFTER)]
    assert subprocess.run(command, cwd=_ROOT, check=False, timeout=120).returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "points").glob("*.json")}
    assert len(kept) == _KILLED_AFTER
    assert _report(made, tmp_path / "cut") == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished training was done again"
    assert {"report.md", "splits.svg", "confusion-flow.svg", "accuracy-all-random.svg"} <= set(whole)


def test_a_stop_keeps_what_is_finished(tmp_path: Path) -> None:
    made = dataset(tmp_path / "data")
    asked = iter([False, False, False, False, True])
    assert run(made, tmp_path, PLAN, lambda: next(asked), lambda *_: None) is None
    assert len(list((tmp_path / "points").glob("*.json"))) == 2


def test_a_point_is_what_was_trained(tmp_path: Path) -> None:
    made = dataset(tmp_path / "data")
    plan = replace(PLAN, splits=("flow",), rates=(0.1,), seeds=1)
    points = run(made, tmp_path, plan, lambda: False, lambda *_: None)
    assert points is not None
    (point,) = points
    assert point.key == Key("flow", "svm", 15_000, 0.1, 1)
    assert point.test.accuracy == 1.0 and point.test.packets == 36
    assert point.scores["without_handshake"].packets < 36
    matrix, bias = read_weights(tmp_path / "points" / f"{point.key.name}.json")
    assert matrix.shape == (1480, 3) and bias.shape == (3,)
    # The octet that tells a class weighs the most for it.
    assert matrix.argmax(axis=0).tolist() == [30, 31, 32]


def test_the_test_packets_do_not_choose_the_rate(tmp_path: Path) -> None:
    made = dataset(tmp_path / "data")
    plan = replace(PLAN, splits=("flow",), rates=(0.1, 1.0), seeds=1)
    low, high = run(made, tmp_path, plan, lambda: False, lambda *_: None) or []
    worse = replace(low.scores["validation"], accuracy=0.5)
    better = replace(low.scores["test"], accuracy=1.0)
    worst = replace(high.scores["test"], accuracy=0.1)
    low = replace(low, scores={**low.scores, "validation": worse, "test": better})
    high = replace(high, scores={**high.scores, "test": worst})
    assert best_rates([low, high]) == {("flow", "svm", 15_000): [high]}


def test_points_cover_the_plan_once() -> None:
    keys = Plan(seeds=2).keys()
    assert len(keys) == len(set(keys)) == 2 * 2 * (6 * 15 * 3 + 3)
    assert len(quick(Plan()).keys()) == 2 * (4 * 2 + 1)
    assert quick(Plan(kinds=("mlp-embedding",))).kinds == ("mlp-embedding",)


def test_what_is_trained_together_is_of_one_size() -> None:
    keys = Plan(kinds=("svm", "mlp", "lstm"), budgets=(15_000, 30_000), seeds=2).keys()
    groups = _groups(keys, together=True)
    assert sorted(key for group in groups for key in group) == sorted(keys)
    sizes = {(group[0].kind, group[0].budget): len(group) for group in groups if group[0].kind != "svm"}
    # Two splits, three rates, two seeds.
    assert sizes == {(kind, budget): 12 for kind in ("mlp", "lstm") for budget in (15_000, 30_000)}
    assert all(len(group) == 1 for group in groups if group[0].kind == "svm")
    assert _groups(keys, together=False) == [[key] for key in keys]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(kinds=("rnn",)), f"model rnn: there is {', '.join(KINDS)}"),
        (Plan(splits=("day",)), "split day: there is random, flow, capture"),
        (Plan(rates=(0.0,)), "learning rate 0: must be over 0 and under 100"),
    ],
)
def test_plans_that_cannot_be(plan: Plan, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        checked(plan)
    assert str(error.value) == said


def test_a_study_of_other_options_is_not_continued(tmp_path: Path) -> None:
    made = dataset(tmp_path / "data")
    settle(tmp_path / "study", PLAN, made)
    with pytest.raises(SettingsError, match="begun with most_rows 0, not 9"):
        settle(tmp_path / "study", replace(PLAN, most_rows=9), made)
    with pytest.raises(SettingsError, match="begun with recipe"):
        settle(tmp_path / "study", replace(PLAN, recipe=Recipe(epochs=1)), made)
    other = dataset(tmp_path / "other", rows=50)
    with pytest.raises(SettingsError, match="begun with dataset_sha256"):
        settle(tmp_path / "study", PLAN, other)


def test_a_study_begun_before_octets_were_replaced_goes_on(tmp_path: Path) -> None:
    made, folder = dataset(tmp_path / "data"), tmp_path / "study"
    begun = settle(folder, PLAN, made)
    old = {key: value for key, value in begun["recipe"].items() if key != "replace"}
    (folder / "study.json").write_text(json.dumps({**begun, "recipe": old}), encoding="utf-8")
    assert settle(folder, PLAN, made) == begun
    with pytest.raises(SettingsError, match="begun with recipe"):
        settle(folder, replace(PLAN, recipe=Recipe(replace=0.5)), made)


def test_the_report_names_the_augmentation(tmp_path: Path) -> None:
    recipe = Recipe(mask=0.1, replace=0.2, dropout=0.5, by_flow=True)
    plan = replace(PLAN, splits=("flow",), rates=(0.1,), seeds=1, recipe=recipe)
    report = _report(dataset(tmp_path / "data"), tmp_path / "study", plan)["report.md"].decode()
    assert (
        "batches of 256, 10% of the octets masked while training, 20% of the octets replaced by random ones, "
        "dropout 0.5, flows weighed by the square root of their packets." in report
    )


def test_what_a_model_costs_is_measured_once_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setattr(speeds, "_SPELL_S", 0.003)
    made, folder = dataset(tmp_path / "data"), tmp_path / "study"
    plan = replace(PLAN, splits=("flow",), rates=(0.1,), seeds=1)
    study = settle(folder, plan, made)
    points = run(made, folder, plan, lambda: False, lambda *_: None)
    assert points is not None
    cost = speeds.speeds_of(folder / "speeds", folder / "points", points[0])
    assert min(*cost.trainer.values(), *cost.exported.values(), cost.exported_bytes) > 0
    # Nothing else than ONNX Runtime runs an SVM.
    assert cost.served == {} and cost.when_served == cost.exported
    assert speeds.speeds_of(folder / "speeds", folder / "points", points[0]) == cost
    served = replace(cost, served=dict.fromkeys(cost.exported, 1234.0))
    write_report(folder, study, points, {("svm", 15_000): served})
    row = next(
        line for line in (folder / "report.md").read_text().splitlines() if "| 1,234 | 1,234 |" in line
    )
    assert f"| {cost.exported['1']:,.0f} | {cost.exported['128']:,.0f} | 1,234 |" in row


def test_speeds_kept_before_serving_was_told_apart_are_read() -> None:
    kept = speeds.Speeds({"1": 1.0}, {"1": 2.0}, weight_bytes=3, exported_bytes=4, resident_bytes=5)
    assert kept.when_served == {"1": 2.0}


def test_data_that_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 class: a classifier needs two at least"):
        parts(dataset(tmp_path / "one", ("web",)), "flow")
    made = dataset(tmp_path / "data")
    split = np.load(made.path / "split_flow.npy")
    split[(made.classes == 1) & (split == 2)] = 255
    np.save(made.path / "split_flow.npy", split)
    with pytest.raises(InputError, match="mail has no packet in test of the split flow"):
        parts(PacketDataset.open(made.path), "flow")


def test_damaged_points_are_told(tmp_path: Path) -> None:
    made = dataset(tmp_path / "data")
    plan = replace(PLAN, splits=("flow",), rates=(0.1,), seeds=1)
    run(made, tmp_path, plan, lambda: False, lambda *_: None)
    (path,) = (tmp_path / "points").glob("*.json")
    np.savez(path.with_suffix(".npz"), np.full((1480, 3), np.nan, np.float32), np.zeros(3, np.float32))
    with pytest.raises(InputError, match="weights that are no numbers"):
        read_weights(path)
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(InputError, match="weights that cannot be read"):
        read_weights(path)
    path.write_text(json.dumps({"version": 9}))
    with pytest.raises(InputError, match="version 9 of a study's point, not 1"):
        read_point(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_point(path)
