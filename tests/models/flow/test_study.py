from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lightgbm")
pytest.importorskip("skl2onnx")

from models.flow.bundle import open_cascade
from models.flow.card import read_cascade_card, read_thresholds
from models.flow.errors import CascadeError
from models.flow.study import boosted
from models.flow.study.choose import Chain
from models.flow.study.data import FlowData, load, save
from models.flow.study.make import write
from models.flow.study.networks import by_packet
from models.flow.study.plan import Budget, Plan, checked, settle
from models.flow.study.points import Key, make_point
from models.flow.study.report import write_report
from models.flow.study.results import results, summary
from models.flow.study.run import Study, run
from models.flow.study.splits import Part
from models.flow.study.table import SEQUENCE, from_table
from models.flow.study.train import Settings, TooFew, train
from models.flow.study.watch import Diverged, Fit, NoBetterThanMajority
from models.packet.training import Interrupted
from schemas.errors import FlowgaugeError, InputError, SettingsError
from tests.models.flow.study_data import flow_data

PLAN = Plan(
    models=("decision_tree", "random_forest"), depths=(1, 3), splits=2, training=Settings(trees=10, rounds=20)
)


def go(data: FlowData, folder: Path, plan: Plan = PLAN) -> Study:
    found = run(data, folder, plan, lambda: False, lambda key, done: None)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("study")
    return go(flow_data(), folder), folder


def test_the_proposed_cascade_is_as_good_as_the_slow_model(finished: tuple[Study, Path]) -> None:
    study, _ = finished
    assert study.chosen.chain.models[-1][1] == 3 and study.chosen.reaches
    for result in results(study):
        assert result.f1 >= result.slow_f1 - 0.02 > result.fast_f1
        assert result.share <= 0.6 and result.answered == 1.0
        for method in ("per_class", "universal"):
            assert result.at_half(method)[1] > result.at_half("random")[1] + 0.2
        assert result.curves["oracle"].f1[4] >= result.curves["universal"].f1[4] - 1e-9
        assert result.curves["random"].f1[-1] == pytest.approx(result.slow_f1, abs=1e-9)
    told = summary(study, results(study))
    assert json.loads(json.dumps(told))["f1"]["mean"] == pytest.approx(
        np.mean([r.f1 for r in results(study)]), abs=1e-4
    )


def test_the_cascade_on_disk_answers_as_the_study_said(finished: tuple[Study, Path]) -> None:
    study, folder = finished
    made = write(study, folder, results(study))
    cascade = open_cascade(made)
    split, data = study.splits[0], study.data
    testing = split.part == Part.TEST
    for number, model in enumerate(study.chosen.chain.models):
        rows = data.rows[model[0], model[1]]
        tier = cascade.tiers[number]
        assert tier is not None
        answer = cascade.answer(number, rows.take(testing)[:, tier.places(rows.columns)])
        flows = rows.flows[testing[rows.flows]]
        assert (answer.classes == split.models[model].answer[flows]).all()
        assert np.allclose(answer.confidence, split.models[model].confidence[flows], atol=1e-5)
        assert answer.unknown.mean() < 0.05
    assert "constant" not in cascade.card.tiers[0].columns
    assert cascade.card.reference[0].confidence is not None
    for method in ("universal", "per_class"):
        assert read_thresholds(folder / f"thresholds-{method}.json", cascade.card).method == method
    assert 'name = "early"' in (folder / "cascade.toml").read_text()
    # Again is no change; another cascade under the same name is an error.
    before = read_cascade_card(made).sha256
    assert read_cascade_card(write(study, folder, results(study))).sha256 == before
    other = replace(study, plan=replace(study.plan, unknown_below=0.5))
    with pytest.raises(CascadeError, match="give this one a new version"):
        write(other, folder, results(study))


def test_the_report_has_the_figures(finished: tuple[Study, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study, _ = finished
    report = write_report(study, tmp_path, results(study), tmp_path / "flows" / "1")
    text = report.read_text()
    assert str(study.chosen.chain) in text
    for figure in ("f1-escalated", "errors-caught", "f1-latency", "collection", "latency", "service-rate"):
        assert f"({figure}.svg)" in text and (tmp_path / f"{figure}.svg").stat().st_size > 1000


def test_a_study_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    data, asked = flow_data(), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 8

    assert run(data, tmp_path, PLAN, stop, lambda key, done: None) is None
    kept = {path: path.read_bytes() for path in (tmp_path / "points").iterdir()}
    assert kept and len(kept) < 3 * len(PLAN.keys())
    go(data, tmp_path)
    assert all(path.read_bytes() == before for path, before in kept.items())


def test_a_study_of_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    settle(tmp_path, PLAN, flow_data())
    settle(tmp_path, PLAN, flow_data())
    with pytest.raises(SettingsError, match=r"study\.json: this study was begun with labels_sha256"):
        settle(tmp_path, PLAN, flow_data(seed=2))
    with pytest.raises(SettingsError, match="begun with training"):
        settle(tmp_path, replace(PLAN, training=Settings(trees=11)), flow_data())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("svm",)}, "--models svm: there is decision_tree"),
        ({"models": ()}, "needs a model"),
        ({"depths": (3, 1)}, "--depths 3,1: rising numbers"),
        ({"by": "day"}, "--split day: there is group, flow"),
        ({"budget": Budget("share", 2)}, "--budget 2: a share"),
        ({"name": "../x"}, "'../x': a cascade's name"),
    ],
)
def test_plans_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        checked(replace(PLAN, **change))  # type: ignore[arg-type]


def test_tiers_may_be_chosen_by_hand(tmp_path: Path) -> None:
    chosen = replace(PLAN, splits=1, chain=("decision_tree@1", "random_forest@1", "random_forest@3"))
    study = go(flow_data(), tmp_path, chosen)
    assert study.chosen.chain == Chain((("early", 1, "decision_tree"), ("early", 1, "random_forest"),
                                        ("early", 3, "random_forest")), by_hand=True)  # fmt: skip
    (result,) = results(study)
    assert result.f1 >= result.slow_f1 - 0.02
    cascade = open_cascade(write(study, tmp_path, [result]))
    assert len(cascade.tiers) == 3 and len(cascade.shares) == 2
    with pytest.raises(SettingsError, match="--tiers lightgbm@9: there is decision_tree@1"):
        go(flow_data(), tmp_path, replace(chosen, chain=("lightgbm@9",)))
    with pytest.raises(SettingsError, match="from shallow to deep"):
        go(flow_data(), tmp_path, replace(chosen, chain=("random_forest@3", "decision_tree@1")))


def test_flow_data_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    data = flow_data()
    save(tmp_path / "flows.npz", data)
    again = load(tmp_path / "flows.npz")
    assert (again.label == data.label).all() and again.features == data.features
    assert (again.rows["early", 3].values == data.rows["early", 3].values).all()
    assert (again.reached_us[3] == data.reached_us[3]).all()
    (tmp_path / "flows.npz").write_bytes((tmp_path / "flows.npz").read_bytes()[:500])
    with pytest.raises(InputError, match=r"flows\.npz: flow data that cannot be read"):
        load(tmp_path / "flows.npz")


def fit(seed: int = 1, **change: object) -> Fit:
    rng = np.random.default_rng(seed)
    label = np.tile(np.arange(3, dtype=np.int32), 60)
    rows = (label[:, np.newaxis] + rng.normal(0, 0.3, (180, 2))).astype(np.float32)
    told = {
        "rows": rows,
        "label": label,
        "tune_rows": rows[:30],
        "tune_label": label[:30],
        "classes": 3,
        "columns": ("a", "b"),
        "seed": 1,
    }
    return Fit(**{**told, **change})  # type: ignore[arg-type]


WILD = {"learning_rate": 60.0, "num_leaves": 8, "min_data_in_leaf": 5, "min_sum_hessian_in_leaf": 0.0}


def doubtful() -> Fit:
    """Return what cannot be learned by heart: a fifth of the labels say anything."""
    rng, label = np.random.default_rng(3), fit().label.copy()
    wrong = rng.random(len(label)) < 0.2
    label[wrong] = rng.integers(0, 3, wrong.sum())
    return fit(label=label)


def test_boosting_that_diverges_is_seen_and_trained_again() -> None:
    booster, note = boosted.train(doubtful(), 30, lambda: False, WILD)
    assert "the training loss rose from" in note and "trained again" in note
    assert (boosted.predict(booster, fit().rows).argmax(axis=1) == fit().label).mean() > 0.9
    assert boosted.train(fit(), 30, lambda: False)[1] == ""
    with pytest.raises(Interrupted):
        boosted.train(fit(), 30, lambda: True)


def test_boosting_that_diverges_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted, "SAFE", WILD)
    with pytest.raises(Diverged, match="the training loss rose"):
        boosted.train(doubtful(), 30, lambda: False, WILD)


def test_a_model_worse_than_the_majority_is_refused(tmp_path: Path) -> None:
    data = flow_data()
    rng = np.random.default_rng(3)
    # What is learned is noise, and one class is most of what is asked.
    label = np.where(rng.random(data.flows) < 0.7, 0, rng.integers(1, 3, data.flows)).astype(np.int32)
    rows = {key: replace(value, values=rng.normal(0, 1, value.values.shape).astype(np.float32))
            for key, value in data.rows.items()}  # fmt: skip
    noise = replace(data, label=label, rows=rows)
    part = noise.split("flow", 1)
    with pytest.raises(NoBetterThanMajority, match=r"right on .*, always saying the most frequent class on"):
        train(noise, part, "decision_tree", "early", 1, 1, Settings(), lambda: False)
    point = make_point(tmp_path, noise, part, Key(1, "early", 1, "decision_tree"), Settings(), lambda: False)
    assert "most frequent class" in point.failure
    with pytest.raises(InputError, match="made: no model could be trained: right on"):
        go(noise, tmp_path / "x", replace(PLAN, models=("decision_tree",), by="flow", splits=1))


def test_too_little_to_learn_from() -> None:
    data = flow_data(flows=900, short=0.995)
    with pytest.raises(TooFew, match="reach 3 packets: too few"):
        train(data, data.split("flow", 1), "decision_tree", "early", 3, 1, Settings(), lambda: False)
    same = replace(
        data, rows={("early", 1): replace(data.rows["early", 1], values=np.ones((900, 2), np.float32))}
    )
    with pytest.raises(TooFew, match="all flows look the same"):
        train(same, same.split("flow", 1), "decision_tree", "early", 1, 1, Settings(), lambda: False)


@pytest.mark.parametrize("kind", ["lightgbm", "river", "mlp", "cnn"])
def test_every_kind_becomes_a_tier(kind: str, tmp_path: Path) -> None:
    if kind in ("mlp", "cnn"):
        pytest.importorskip("keras")
    data = flow_data(flows=450)
    part = data.split("flow", 1)
    point = make_point(tmp_path, data, part, Key(1, "early", 3, kind), Settings(rounds=30), lambda: False)
    assert not point.failure and point.tune_loss < 0.6
    assert point.row_us["256"] > 0


def test_columns_by_packet() -> None:
    sequences, others, packets = by_packet(("protocol", "octets_1", "octets_2", "gap_us_2"))
    assert sequences == [{1: 1, 2: 2}, {2: 3}] and others == [0] and packets == 2


def test_a_class_of_one_group_cannot_be_tested(tmp_path: Path) -> None:
    data = flow_data(groups=1)
    with pytest.raises(
        InputError, match="split 1 has flows of 0 classes to learn from; a class needs more than one"
    ):
        run(data, tmp_path, PLAN, lambda: False, lambda key, done: None)


HEAD = f"flow,service,start_time,{SEQUENCE}\n"


def table(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(f"{line}\n" for line in lines))
    return path


def test_tables_give_the_columns_of_the_flows_agent(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.csv",
        "a,one,100,0.5:100:0;0.6:70000:1;0.55:60:0",
        "b,two,200000,0:100:1;0.25:50:0",
        "c,two,300000,0:100:1",
    )
    data = from_table(path, (1, 3), 1, 1)
    assert data.classes == ("one", "two") and data.label.tolist() == [0, 1, 1]
    assert data.reached_us[3].tolist() == [pytest.approx(5e4), -1, -1]
    rows = data.rows["early", 3]
    assert rows.flows.tolist() == [0]
    found = dict(zip(rows.columns, rows.values[0].tolist(), strict=True))
    assert found == {
        "octets_1": 100, "octets_2": 65535, "octets_3": 60,
        "direction_1": 1, "direction_2": -1, "direction_3": 1,
        "gap_us_2": pytest.approx(1e5), "gap_us_3": 0,
    }  # fmt: skip
    assert len(set(data.group.tolist())) == 3


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        ((), "a,b\n", "line 1: no column service or label"),
        ((), "service,start_time\n", f"line 1: no column {SEQUENCE}"),
        (("a,one,100,0:1:2",), HEAD, "line 2: packet 1 is '0:1:2'"),
        (("a,one,100,0:1:0", "a,one,100,"), HEAD, "line 3: packet 1 is ''"),
        (("a,one,100,nan:1:0",), HEAD, "line 2: packet 1: 'nan:1:0' is not"),
        (("a,,100,0:1:0",), HEAD, "line 2: no service"),
        (("a,one,x,0:1:0",), HEAD, "line 2: could not convert"),
        (("a,one,1e99,0:1:0",), HEAD, "line 2: "),
        (("a,one,1,0:1:0",), HEAD, "1 class with at least 1 flows of 1 groups, out of 1"),
        ((), HEAD, "0 classes with at least"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, lines: tuple[str, ...], head: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_table(table(tmp_path / "t.csv", *lines, head=head), (1, 3), 1, 1)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, headed: bool
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes((HEAD.encode() if headed else b"") + data)
    with pytest.raises(FlowgaugeError):
        from_table(path, (1, 3), 1000, 1)
