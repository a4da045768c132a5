"""The online learner: how labels and features meet, and what is counted on the way."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from models.online.config import OnlineSettings
from models.online.drift import prepare_tests
from models.online.learner import OnlineLearner
from models.online.records import Predictions
from schemas.codec import decode, encode
from schemas.errors import CodecError, SettingsError
from tests.models.online.batches import START_NS, feature_batch, label

FLOW, OTHER = 0xABCD_0000_0000_0001, 0x0123_4567_89AB_CDEF


def learner(**settings: Any) -> OnlineLearner:
    return OnlineLearner(OnlineSettings(**{"classifier": "naive_bayes", **settings}))


def feed(model: OnlineLearner, *args: Any, **more: Any) -> list[dict[str, Any]]:
    return records(model.on_features(feature_batch(*args, **more), received_time_ns=1800, clock=lambda: 1850))


def records(made: Predictions | None) -> list[dict[str, Any]]:
    return [] if made is None else [decode("Prediction", value) for value in made.messages()[0]]


def sums_hold(model: OnlineLearner) -> bool:
    """Check the sums that the learner promises of its counts."""
    c, waiting = model.counts, model.summary()["rows_waiting"]
    fates = ("repeated", "too_old", "over_limit", "learned", "class_limit", "expired", "evicted")
    outcomes = ("matched", "early", "late", "repeated", "conflicting")
    return (
        c["rows_received"] == sum(c[f"rows_{f}"] for f in fates) + waiting
        and c["labels_received"] == sum(c[f"labels_{o}"] for o in outcomes)
        and c["labels_early"] + c["labels_late"]
        >= c["labels_joined_later"] + c["labels_unknown_flow"] + c["labels_missed_flow"]
    )


def test_a_prediction_record_says_who_what_when_and_how_long() -> None:
    model = learner(name="m")
    batch = feature_batch([FLOW], depth=3, at_s=2.5, replayed=True)
    (record,) = records(model.on_features(batch, received_time_ns=1800, clock=lambda: 1850))
    version = model.classifiers["early"].version
    assert record == {
        "schema_version": 2,
        "prediction_id": record["prediction_id"],
        "flow_id": "abcd000000000001",
        "community_id": record["community_id"],
        "probe": "gate",
        "source_address": "192.0.2.1",
        "destination_address": "198.51.100.7",
        "source_port": 40_000,
        "destination_port": 443,
        "protocol": 6,
        "start_ns": START_NS,
        "event_time_ns": START_NS + 2_500_000_000,
        "representation": "early",
        "depth": 3,
        "flow_end_reason": 0,
        "label": None,
        "confidence": 0.0,
        "model": "m",
        "model_version": version,
        "replayed": True,
        "probe_time_ns": 1000,
        "bus_to_flows_ns": 500,
        "flows_ns": 200,
        "bus_to_model_ns": 100,
        "model_ns": 50,
        "final": True,
        "tier": 0,
        "ood": 0.0,
    }
    assert record["community_id"].startswith("1:")
    assert decode("Prediction", encode("Prediction", record)) == record


def test_stage_times_are_never_negative() -> None:
    batch = feature_batch([FLOW], probe_time_ns=5000, flows_received_time_ns=4000, flows_sent_time_ns=3000)
    (record,) = records(learner().on_features(batch, received_time_ns=2000, clock=lambda: 1000))
    assert [record[f"{s}_ns"] for s in ("bus_to_flows", "flows", "bus_to_model", "model")] == [0, 0, 0, 0]


def test_prediction_ids_are_the_same_again_and_differ_by_what_they_name() -> None:
    def ids(name: str = "m", **more: Any) -> str:
        return str(feed(learner(name=name), **{"flows": [FLOW], **more})[0]["prediction_id"])

    assert ids() == ids() == ids(at_s=9.0)
    assert len({ids(), ids("n"), ids(flows=[OTHER]), ids(depth=2), ids(representation="flow")}) == 5
    # Pinned: an id that changed would double every prediction after an update.
    assert ids() == "5c3478409aafeed2"


def test_the_flow_learns_once_its_label_comes() -> None:
    model = learner()
    feed(model, [FLOW], depth=1)
    feed(model, [FLOW], depth=8)
    feed(model, [FLOW], representation="flow", depth=20, names=("octets",))
    assert model.summary()["rows_waiting"] == 3
    assert model.on_label(label(FLOW, "dns")) == "matched"
    assert model.counts["rows_learned"] == 3
    assert model.summary()["rows_waiting"] == 0
    learned = {name: c.labels_learned for name, c in model.classifiers.items()}
    assert learned == {"early": 2, "flow": 1}
    (record,) = feed(model, [OTHER])
    assert (record["label"], record["confidence"]) == ("dns", 1.0)
    assert sums_hold(model)


def test_an_early_label_waits_for_its_features() -> None:
    model = learner()
    assert model.on_label(label(FLOW, "dns")) == "early"
    (record,) = feed(model, [FLOW])
    assert record["label"] is None, "predicted before it is learned"
    feed(model, [FLOW], representation="flow", depth=9)
    assert model.counts["rows_learned"] == 2
    assert model.counts["labels_joined_later"] == 1
    assert model.scores.summary()["early@1"]["accuracy"] == 0.0
    assert sums_hold(model)


def test_labels_that_come_again_or_contradict_are_counted_and_not_learned() -> None:
    model = learner()
    feed(model, [FLOW])
    said = [model.on_label(label(FLOW, name)) for name in ("dns", "dns", "web", "dns")]
    assert said == ["matched", "repeated", "conflicting", "repeated"]
    assert model.counts["rows_learned"] == 1
    assert model.classes == {"dns"}
    model.on_label(label(OTHER, "web"))
    assert model.on_label(label(OTHER, "dns")) == "conflicting"
    assert sums_hold(model)


def test_a_label_for_a_flow_nobody_knows_is_given_up_after_the_wait() -> None:
    model = learner(label_wait_s=10)
    model.on_label(label(FLOW, "dns", at_s=0))
    feed(model, [OTHER], at_s=10)
    assert model.counts["labels_unknown_flow"] == 0
    feed(model, [OTHER], at_s=10.5, depth=2)
    assert model.counts["labels_unknown_flow"] == 1
    assert model.counts["rows_learned"] == 0
    assert sums_hold(model)


def test_a_label_waits_from_when_it_came_not_from_an_old_flow_start() -> None:
    model = learner(label_wait_s=10)
    feed(model, [OTHER], at_s=100)
    model.on_label(label(FLOW, "dns", at_s=0))
    feed(model, [FLOW], representation="flow", depth=9, at_s=105)
    assert model.counts["rows_learned"] == 1


def test_a_late_label_is_told_from_one_for_an_unknown_flow() -> None:
    model = learner(label_wait_s=10)
    feed(model, [FLOW], at_s=0)
    feed(model, [OTHER], at_s=10.5)
    assert (model.counts["flows_expired"], model.counts["rows_expired"]) == (1, 1)
    assert model.on_label(label(FLOW, "dns")) == "late"
    assert model.counts["rows_learned"] == 0
    feed(model, [OTHER], at_s=30, depth=2)
    assert model.counts["labels_missed_flow"] == 1
    assert model.counts["labels_unknown_flow"] == 0
    assert model.on_label(label(FLOW, "dns")) == "repeated"
    assert sums_hold(model)


def test_a_flow_that_outlives_the_wait_still_knows_its_label() -> None:
    model = learner(label_wait_s=10)
    feed(model, [FLOW], at_s=0)
    model.on_label(label(FLOW, "dns"))
    feed(model, [OTHER], at_s=100)
    feed(model, [FLOW], representation="flow", depth=900, at_s=101)
    assert model.counts["rows_learned"] == 2
    assert sums_hold(model)


def test_each_probe_has_its_own_event_time() -> None:
    model = learner(label_wait_s=10)
    feed(model, [FLOW], at_s=0, probe="a")
    feed(model, [OTHER], at_s=1000, probe="b")
    assert model.counts["flows_expired"] == 0
    assert model.on_label(label(FLOW, "dns", probe="a")) == "matched"


def test_rows_too_old_to_wait_are_predicted_and_counted() -> None:
    model = learner(label_wait_s=10)
    feed(model, [OTHER], at_s=100)
    assert len(feed(model, [FLOW], at_s=0)) == 1
    assert model.counts["rows_too_old"] == 1
    assert sums_hold(model)


@pytest.mark.parametrize("labelled_first", [True, False])
def test_a_batch_that_comes_again_repeats_its_ids_and_is_not_learned_twice(labelled_first: bool) -> None:
    model = learner()
    first = feed(model, [FLOW, OTHER])
    if labelled_first:
        model.on_label(label(FLOW, "dns"))
    again = feed(model, [FLOW, OTHER])
    if not labelled_first:
        model.on_label(label(FLOW, "dns"))
    assert [r["prediction_id"] for r in first] == [r["prediction_id"] for r in again]
    assert model.counts["rows_repeated"] == 2
    assert model.counts["rows_learned"] == 1
    assert model.scores.summary()["early@1"]["n"] == 1
    assert sums_hold(model)


def test_the_prediction_that_is_scored_is_the_first_one_made() -> None:
    model = learner()
    feed(model, [FLOW])
    feed(model, [OTHER])
    model.on_label(label(OTHER, "dns"))
    feed(model, [FLOW])
    model.on_label(label(FLOW, "dns"))
    assert model.scores.summary()["early@1"]["accuracy"] == 0.0


def test_no_more_flows_wait_than_allowed_the_longest_untouched_go() -> None:
    model = learner(max_waiting_flows=3)
    feed(model, [1, 2, 3])
    feed(model, [1], depth=2)
    feed(model, [4, 5])
    assert model.summary()["flows_waiting"] == 3
    assert (model.counts["flows_evicted"], model.counts["rows_evicted"]) == (2, 2)
    said = [model.on_label(label(flow, "dns")) for flow in (1, 4, 5, 2, 3)]
    assert said == ["matched", "matched", "matched", "late", "late"]
    assert model.summary()["flows_waiting"] == 3
    assert sums_hold(model)


def test_labels_for_unknown_flows_are_bounded_too() -> None:
    model = learner(max_waiting_flows=5)
    for flow in range(20):
        model.on_label(label(flow, "dns"))
    assert model.summary()["flows_waiting"] == 5
    assert model.counts["labels_unknown_flow"] == 15
    assert sums_hold(model)


def test_rows_of_one_flow_are_bounded() -> None:
    model = learner(max_rows_per_flow=2)
    for depth in (1, 2, 3):
        feed(model, [FLOW], depth=depth)
    assert model.counts["rows_over_limit"] == 1
    model.on_label(label(FLOW, "dns"))
    assert model.counts["rows_learned"] == 2
    assert sums_hold(model)


def test_classes_are_bounded() -> None:
    model = learner(max_classes=2)
    feed(model, [1, 2, 3])
    for flow in (1, 2, 3):
        model.on_label(label(flow, f"app {flow}"))
    assert model.classes == {"app 1", "app 2"}
    assert (model.counts["rows_learned"], model.counts["rows_class_limit"]) == (2, 1)
    assert sums_hold(model)


def test_rows_of_other_representations_are_passed_over() -> None:
    model = learner()
    assert feed(model, [FLOW], representation="window") == []
    assert model.counts == {"rows_of_other_representations": 1}


def test_an_empty_batch_is_no_trouble() -> None:
    model = learner()
    assert feed(model, []) == []
    assert sums_hold(model)


@pytest.mark.parametrize(
    "change", [{"flow_id": "xyz"}, {"flow_id": "g" * 16}, {"label": ""}, {"label": "x" * 201}]
)
def test_an_unusable_label_is_refused(change: dict[str, str]) -> None:
    model = learner()
    with pytest.raises(CodecError):
        model.on_label({**label(FLOW, "dns"), **change})
    assert not model.counts


def test_waiting_memory_is_what_is_said() -> None:
    import tracemalloc

    model = learner(max_waiting_flows=5000)
    names = tuple(f"feature {i}" for i in range(40))
    # What is compiled is not what waits.
    prepare_tests()
    feed(learner(), [1], np.ones((1, 40)), names=names)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for start in range(0, 5000, 500):
        flows = [(i << 48) + i for i in range(start, start + 500)]
        feed(model, flows, np.ones((500, 40)), names=names)
        feed(model, flows, np.ones((500, 40)), names=names, depth=8)
    real = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.7 * real < model.state_bytes < 1.3 * real
    feed(model, [7], at_s=1000)
    assert model.summary()["flows_waiting"] == 1


def test_a_pickled_learner_goes_on_where_it_stopped() -> None:
    model = learner(classifier="mondrian_forest", parameters={"trees": 2})
    rng = np.random.default_rng(2)
    for flow in range(30):
        feed(model, [flow], rng.uniform(0, 9, (1, 3)))
        if flow % 2:
            model.on_label(label(flow, f"app {flow % 3}"))
    twin = pickle.loads(pickle.dumps(model))
    for m in (model, twin):
        for flow in range(0, 30, 2):
            m.on_label(label(flow, f"app {flow % 3}"))
    features = rng.uniform(0, 9, (5, 3))
    assert feed(model, range(50, 55), features) == feed(twin, range(50, 55), features)
    assert model.scores.summary() == twin.scores.summary()
    assert model.counts == twin.counts


def test_unknown_parameters_are_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match=r"models\.parameters\.leaves"):
        learner(parameters={"leaves": 3})
