"""Flow state and a model in one process: the answers are those of two processes, whatever was seen before."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.flow.agent import CascadeAgent, input_topics
from models.flow.cascade import Cascade
from models.flow.config import CascadeSettings
from models.flow.tiers import Tier
from models.flow.worker import with_flows
from models.online.agent import ModelAgent
from models.online.config import OnlineSettings
from models.online.worker import with_flows as with_online
from models.with_flows import FlowsWithModel, topics_read
from producers.config import BusSettings
from schemas.codec import decode, encode
from schemas.errors import SettingsError
from schemas.features import decode_feature_batch
from schemas.packets import PacketBatch
from streams.agent import FlowsAgent
from streams.config import RepresentationSettings, StreamsSettings
from streams.faust_app import Message
from tests.models.flow.scripted import CLASSES, SURE, UNSURE, cascade, packet_card, tier_card
from tests.models.flow.test_agent import Announced
from tests.models.online.batches import label
from tests.models.online.test_agent import ListSink, rest
from tests.streams.made import FLOWS, SECOND, START_NS, Made, columns_of

BUS = BusSettings(partitions=4)
PARTITION = 1
SEEN = 1
"""Messages after which flows wait for their third packet."""
TRAFFIC = [Made(START_NS + i * SECOND // 100, FLOWS[i % 3], i % 2, 60 + 7 * i) for i in range(60)]
STREAMS = StreamsSettings(
    representations=(
        RepresentationSettings(
            name="early", kind="early", features=("packet_sequence", "ttl"), depths=(1, 3), ends=True
        ),
        RepresentationSettings(name="flow", kind="flow", features=("totals",)),
    )
)


class ByOctets(Tier):
    """Makes the class and how sure it is of the sum of its columns."""

    def _probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        total = rows.sum(axis=1).astype(int)
        sure = np.where(total // 3 % 2, SURE, UNSURE).astype(np.float32)
        out = np.repeat((1 - sure[:, None]) / (len(CLASSES) - 1), len(CLASSES), axis=1)
        out[np.arange(len(rows)), total % 3] = sure
        return out.astype(np.float32)


def by_octets() -> Cascade:
    """Return a cascade that answers by packets 1 and 3 as the flows agent tells of them."""
    columns = {1: ("octets_1",), 3: ("octets_1", "octets_2", "octets_3")}
    cards = [tier_card(name, depth, columns=columns[depth]) for name, depth in (("fast", 1), ("slow", 3))]
    scripted = cascade(*cards)
    return Cascade(scripted.card, tuple(ByOctets(card, len(CLASSES)) for card in cards), {})


def together(made: Cascade | None = None) -> tuple[FlowsWithModel[CascadeAgent], ListSink]:
    sink = ListSink()
    return with_flows(STREAMS, CascadeSettings(), BUS, sink, made or by_octets(), Announced()), sink


def packets(packets_each: int = 6, **last: Any) -> list[Message]:
    """Return the traffic as messages of ``packets``."""
    out = []
    for sequence, at in enumerate(range(0, len(TRAFFIC), packets_each)):
        some = columns_of(TRAFFIC[at : at + packets_each])
        more = last if at + packets_each >= len(TRAFFIC) else {}
        value = PacketBatch("p", PARTITION, 1, 4, sequence, 77, some, **more).encode()
        out.append(Message("packets", PARTITION, sequence, None, value))
    return out


def feed(to: Any, messages: list[Message], at_a_time: int = 1) -> None:
    for at in range(0, len(messages), at_a_time):
        for message in messages[at : at + at_a_time]:
            to.on_message(message)
        to.on_drained()


OFFSETS = itertools.count()
Answer = tuple[Any, ...]


def answers(sink: ListSink) -> list[Answer]:
    """Return what was said, less times."""
    names = ("prediction_id", "flow_id", "final", "tier", "label", "depth", "confidence", "event_time_ns")
    found = sink.records("predictions.flow", "Prediction")
    return sorted(tuple(str(record[name]) for name in names) for record in found)


def rows(sink: ListSink) -> list[bytes]:
    """Return the feature rows on the bus."""
    found = [decode_feature_batch(m[1]) for m in sink.messages if m[0].startswith("features.")]
    return sorted(
        b"".join(np.ascontiguousarray(batch.columns[name][i]).tobytes() for name in sorted(batch.columns))
        for batch in found
        for i in range(batch.rows)
    )


@pytest.mark.parametrize("at_a_time", [1, 4, 100])
def test_rows_and_answers_are_those_of_two_processes(at_a_time: int) -> None:
    both, sink = together()
    messages = packets(end_of_stream=True)
    feed(both, messages, at_a_time)
    first, between = FlowsAgent(STREAMS, BUS, bus := ListSink()), ListSink()
    feed(first, messages, at_a_time)
    second = CascadeAgent(CascadeSettings(), BUS, between, by_octets(), Announced())
    for offset, (topic, value, partition, _) in enumerate(list(bus.messages)):
        if topic == "features.early":
            second.on_message(Message(topic, partition or 0, offset, None, value))
            second.on_drained()
    assert answers(sink) == answers(between)
    assert rows(sink) == rows(bus)
    told = {(final, tier) for _, _, final, tier, *_ in answers(sink)}
    assert {("False", "1"), ("True", "2")} <= told
    assert both.counts()["final"] == len({flow for _, flow, *_ in answers(sink)}) > 0
    assert next(topic for topic, *_ in sink.messages) == "predictions.flow", "answers do not wait for rows"


def test_times_tell_that_there_was_no_hop() -> None:
    both, sink = together()
    feed(both, packets())
    for record in sink.records("predictions.flow", "Prediction"):
        assert record["probe_time_ns"] == 77
        assert 0 <= record["bus_to_model_ns"] < record["flows_ns"] + SECOND


@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_what_the_cascade_has_seen_is_folded_in_but_not_answered_again(at_a_time: int) -> None:
    """As after a crash between the two states' writing: the flow state is older than the cascade's."""
    messages = packets(end_of_stream=True)
    whole, said = together()
    feed(whole, messages[:SEEN])
    before = answers(said)
    said.messages.clear()
    feed(whole, messages[SEEN:])
    after, both_rows = answers(said), rows(said)
    assert before and after
    resumed, sink = together()
    feed(resumed, messages[:SEEN])
    waiting = resumed.model.server.waiting_flows(PARTITION, {})
    fresh, sink = together()
    fresh.model.server.restore(PARTITION, waiting)
    fresh.model._resumer._next["packets", PARTITION] = SEEN
    feed(fresh, messages, at_a_time)
    assert answers(sink) == after
    assert set(both_rows) < set(rows(sink))
    assert fresh.flows.counts()["packets"] == len(TRAFFIC)


def test_both_states_are_written_the_cascades_first() -> None:
    both, sink = together()
    brought: list[list[str]] = []

    def flush(timeout_s: float) -> int:
        brought.append([topic for topic, *_ in sink.messages if topic in ("predictions.flow", "flows.state")])
        return 0

    sink.flush = flush  # type: ignore[method-assign]
    feed(both, packets()[:4])
    both.before_commit()()
    assert set(brought[0]) == {"predictions.flow"}, (
        "answers are on the bus before a state without their flows"
    )
    assert [topics.count("flows.state") for topics in brought] == [0, 0, 1, 2]
    keys = [key for topic, _, _, key in sink.messages if topic == "flows.state"]
    assert keys == [
        f"flowgauge-flows+flowgauge-cascade/{PARTITION}/0/0",
        f"flowgauge-flows/{PARTITION}/0/0",
    ]
    states = [decode("FlowState", value) for topic, value, *_ in sink.messages if topic == "flows.state"]
    assert [state["offset"] for state in states] == [4, 4]
    both.before_commit()()
    assert len([topic for topic, *_ in sink.messages if topic == "flows.state"]) == 2
    both.hand_over()
    assert len([topic for topic, *_ in sink.messages if topic == "flows.state"]) == 4


def test_both_states_are_of_the_same_moment_whatever_comes_until_they_are_written() -> None:
    def written(more: bool) -> list[bytes]:
        both, sink = together()
        feed(both, packets()[:4])
        write = both.before_commit()
        if more:
            feed(both, packets()[4:])
        write()
        return [decode("FlowState", m[1])["body"] for m in sink.messages if m[0] == "flows.state"]

    assert len(written(False)) == 2
    assert written(True) == written(False)


def test_labels_are_scored() -> None:
    both, sink = together()
    feed(both, packets(end_of_stream=True))
    flow = int(sink.records("predictions.flow", "Prediction")[0]["flow_id"], 16)
    both.on_message(Message("labels", PARTITION, 0, None, encode("Label", label(flow, "web"))))
    both.on_drained()
    assert both.counts()["labels_scored"] == 1


def test_each_tells_its_own_costs() -> None:
    both, sink = together()
    feed(both, packets())
    both.on_tick({("packets", PARTITION): 3})
    told = {r["stage"]: r for r in sink.records("telemetry.cost", "CostTelemetry")}
    assert (told["flows"]["unit"], told["flows"]["items_in"]) == ("packets", len(TRAFFIC))
    assert told["cascade"]["items_in"] == told["flows"]["counters"]["rows_early"]
    assert told["flows"]["cpu_ns"] > 0 and told["cascade"]["cpu_ns"] > 0


def test_a_defect_of_the_cascade_sets_its_rows_aside_and_flow_state_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, sink = together()
    messages = packets(end_of_stream=True)

    def broken(_: object) -> Any:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(both.model.server, "take", broken)
        feed(both, messages[:1])
    feed(both, messages[1:])
    letter, *more = sink.records("dead-letters", "DeadLetter")
    assert (letter["topic"], letter["offset"], letter["stage"]) == ("features.early", -1, "cascade")
    assert decode_feature_batch(letter["message"]).rows == 3 and not more
    assert both.flows.counts()["packets"] == len(TRAFFIC)


def test_packets_that_cannot_be_used_are_set_aside_once() -> None:
    both, sink = together()
    feed(both, [Message("packets", PARTITION, 0, None, b"poison"), *packets()[1:]])
    (letter,) = sink.records("dead-letters", "DeadLetter")
    assert (letter["topic"], letter["offset"], letter["stage"]) == ("packets", 0, "flows")


ONLINE = OnlineSettings(classifier="naive_bayes", checkpoint_interval_s=0)


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_an_online_model_predicts_and_learns_as_in_a_process_of_its_own(at_a_time: int) -> None:
    both = with_online(STREAMS, ONLINE, BUS, sink := ListSink())
    alone = ModelAgent(ONLINE, BUS, between := ListSink())
    first = FlowsAgent(STREAMS, BUS, bus := ListSink())
    messages = packets(end_of_stream=True)
    for at in range(0, len(messages), at_a_time):
        feed(both, messages[at : at + at_a_time], at_a_time)
        feed(first, messages[at : at + at_a_time], at_a_time)
        made, bus.messages[:] = [m for m in bus.messages if m[0] in alone.wants()], []
        rows_come = [Message(topic, PARTITION, next(OFFSETS), None, value) for topic, value, *_ in made]
        feed(alone, rows_come, len(rows_come) or 1)
        for to, said in ((both, sink), (alone, between)):
            rest(to)
            for flow in sorted({r["flow_id"] for r in said.records("predictions.flow", "Prediction")}):
                lesson = encode("Label", label(int(flow, 16), ("dns", "web")[int(flow, 16) % 2]))
                to.on_message(Message("labels", PARTITION, next(OFFSETS), None, lesson))
            to.on_drained()
            rest(to)
    names = ("prediction_id", "label", "confidence", "model_version", "depth")
    told, wanted = (
        [tuple(r[name] for name in names) for r in one.records("predictions.flow", "Prediction")]
        for one in (sink, between)
    )
    assert told == wanted
    if at_a_time == 1:
        assert {label for _, label, *_ in told} >= {None, "web"}
    assert both.model.learner.counts == alone.learner.counts
    assert both.model.learner.counts["rows_learned"] > 0


def test_an_online_models_defect_sets_its_rows_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    both = with_online(STREAMS, ONLINE, BUS, sink := ListSink())

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(both.model.learner, "answer", broken)
    feed(both, packets()[:1])
    monkeypatch.undo()
    monkeypatch.setattr(both.model.learner, "keep", broken)
    feed(both, packets()[1:2])
    rest(both)
    letters = sink.records("dead-letters", "DeadLetter")
    assert [(r["topic"], r["offset"], r["stage"]) for r in letters] == [("features.early", -1, "models")] * 2
    assert all(decode_feature_batch(r["message"]).rows == 3 for r in letters)


def test_topics_that_are_read() -> None:
    assert topics_read(STREAMS, input_topics(by_octets()), "x") == ("packets", "labels")
    with_payloads = cascade(tier_card("fast", 1), packet_card("slow", 4))
    assert set(input_topics(with_payloads)) == {"features.early", "payloads", "labels"}
    assert topics_read(STREAMS, input_topics(with_payloads), "x") == ("packets", "payloads", "labels")
    with pytest.raises(
        SettingsError, match=r"cascade flows/1 needs the representation deep, which streams\."
    ):
        together(cascade(tier_card("fast", 1), tier_card("slow", 3, "deep")))
