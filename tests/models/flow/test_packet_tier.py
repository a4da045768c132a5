"""A packet model as a tier: payloads come on a topic of their own, before or after the flow waits for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flow.agent import input_topics
from models.flow.bundle import open_cascade, write_cascade
from models.flow.card import never
from models.flow.errors import CascadeError
from models.flow.octets import COLUMNS, rows_of
from models.flow.work import Arrived, ArrivedPayloads
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS
from tests.models.flow.scripted import (
    CLASSES,
    SECOND,
    SURE,
    UNSURE,
    Clock,
    arrived,
    batch,
    cascade,
    packet_card,
    payloads,
    tier_card,
)
from tests.models.flow.test_agent import Setup, name
from tests.models.flow.test_server import finals, provisional, server
from tests.models.packet.batches import payload_batch

FAST = tier_card("fast", 1)
MADE = cascade(FAST, packet_card("lstm", 4))
Group = list[Arrived | ArrivedPayloads]


def unsure(*flows: int) -> Group:
    return arrived(batch(*((flow, 1, 0.0) for flow in flows), fast=(1, UNSURE)))


def test_rows_are_the_packets_of_a_number_with_the_features_columns() -> None:
    whole = payload_batch((5, 3, b"ab"), (5, 4, b"cd"), (6, 4, b"e"), sent_time_ns=9)
    rows = rows_of(whole, (4,))
    assert (rows.representation, rows.probe, rows.rows) == ("payloads", "gate", 2)
    assert rows.columns["flow_id"].tolist() == [5, 6] and rows.columns["depth"].tolist() == [4, 4]
    octets = rows.columns["features"]
    assert octets.dtype == np.uint8 and octets.shape == (2, FIRST_OCTETS) and len(COLUMNS) == FIRST_OCTETS
    assert octets[0, MASKED_OCTETS : MASKED_OCTETS + 3].tobytes() == b"cd\0"
    # The second endpoint sent the first packet, so it is the source.
    assert rows.columns["source_address"][0, :4].tolist() == [10, 0, 0, 2]
    assert (rows.columns["source_port"][0], rows.columns["destination_port"][0]) == (50000, 443)
    assert rows.columns["end_ns"][0] == whole.columns["time_ns"][1]
    assert rows_of(whole, (7,)).rows == rows_of(whole, ()).rows == 0


def test_octets_that_a_model_has_not_learned_from_are_masked() -> None:
    seen = rows_of(payload_batch((5, 1, bytes([7] * 30)), masked_octets=0), (1,)).columns["features"][0]
    assert not seen[:MASKED_OCTETS].any() and (seen[MASKED_OCTETS:30] == 7).all()


def test_topics_of_such_a_cascade() -> None:
    assert input_topics(MADE) == ("features.early", "payloads", "labels")
    assert input_topics(cascade(packet_card("lstm", 1))) == ("payloads", "labels")


@pytest.mark.parametrize("order", ["before", "after", "together"])
def test_payloads_may_come_before_their_flow_waits_or_after(order: str) -> None:
    one, octets = server(MADE), arrived(payloads((5, 3), (5, 4), (6, 4)))
    groups = {"before": [octets, unsure(5, 6)], "after": [unsure(5, 6), octets]}
    said = []
    for group in groups.get(order, [unsure(5, 6) + octets]):
        said += one.take(group)
    assert finals(said) == [(5, 2, 1, 4), (6, 2, 1, 4)]
    assert one.waiting == one._ahead.rows == one._ahead.nbytes == 0
    assert one.counts["answered_lstm"] == 2


def test_a_flow_that_ended_in_the_same_group_gets_its_payload_first() -> None:
    one = server(MADE, max_batch=1)
    one.take(unsure(5))
    end = batch((5, 6, 0.4), reason=3)
    assert finals(one.take(arrived(end, payloads((5, 4))))) == [(5, 2, 1, 4)]


def test_a_packet_that_is_repeated_changes_nothing() -> None:
    one, octets = server(MADE), payloads((5, 4))
    again = payloads((5, 4), said=(0, SURE))
    one.take(arrived(octets, again))
    assert one._ahead.rows == 1
    assert finals(one.take(unsure(5))) == [(5, 2, 1, 4)]
    assert one.take(arrived(octets, again)) == [] and one._ahead.rows == 0


def test_without_its_payload_a_flow_gets_the_best_answer_so_far() -> None:
    one = server(MADE, wait_s=2.0)
    assert provisional(one.take(unsure(5, 6))) == [(5, 1, 0, 1), (6, 1, 0, 1)]
    assert one.take(arrived(payloads((5, 3), (5, 5)))) == [], "of other packets"
    assert finals(one.take(arrived(batch((6, 7, 0.9), reason=3)))) == [(6, 1, 0, 1)]
    assert finals(one.take(arrived(batch((7, 1, 2.1))))) == [(5, 1, 0, 1), (7, 0, 0, 1)]
    assert one.take(arrived(payloads((5, 4)))) == [], "too late"


def test_event_time_goes_on_by_features_not_by_payloads() -> None:
    one = server(MADE, wait_s=2.0)
    one.take(unsure(5))
    late = payloads((8, 4))
    late.columns["time_ns"][:] += 60 * SECOND
    assert one.take(arrived(late)) == [] and one.waiting == 1
    assert finals(one.take(arrived(payloads((5, 4))))) == [(5, 2, 1, 4)]


def test_payloads_of_flows_that_are_answered_are_not_kept() -> None:
    one = server(MADE)
    one.take(arrived(payloads((5, 4), (6, 4))))
    kept = one._ahead.nbytes
    assert 2 * FIRST_OCTETS < kept < 2 * FIRST_OCTETS + 500 and one.state_bytes > kept
    one.take(arrived(batch((5, 1, 0.0), fast=(1, SURE))))
    assert one._ahead.rows == 1 and one._ahead.nbytes == kept / 2


def test_what_is_kept_is_bounded_by_octets_and_what_is_dropped_counted() -> None:
    clock = Clock()
    one = server(MADE, clock, max_ahead_bytes=1 << 16)
    many = range(1, 61)
    one.take(arrived(payloads(*((flow, 4) for flow in many))))
    kept = one._ahead.rows
    assert 30 < kept < 44 and one._ahead.nbytes <= 1 << 16
    assert one.counts["rows_dropped_ahead"] == len(many) - kept
    said = one.take(unsure(*many))
    assert len(finals(said)) == kept and min(flow for flow, *_ in finals(said)) == len(many) - kept + 1


def test_payloads_whose_flow_never_waits_are_forgotten() -> None:
    clock = Clock()
    one = server(MADE, clock)
    one.take(arrived(payloads((5, 4))))
    clock.now_ns = 16 * SECOND
    assert one.due() == [] and one._ahead.rows == one._ahead.nbytes == 0
    assert one.counts["rows_without_flow"] == 1


def test_a_cascade_may_begin_with_a_packet_model() -> None:
    made = cascade(packet_card("first", 1), tier_card("slow", 3))
    one = server(made, wait_s=2.0)
    said = one.take(arrived(payloads((5, 1), said=(0, SURE)), payloads((6, 1), (7, 1), said=(1, UNSURE))))
    assert finals(said) == [(5, 0, 0, 1)] and one.waiting == 2
    assert finals(one.take(arrived(batch((6, 3, 0.1))))) == [(6, 2, 1, 3)]
    late = payloads((8, 1))
    late.columns["time_ns"][:] += 60 * SECOND
    assert finals(one.take(arrived(late))) == [(7, 1, 0, 1), (8, 2, 0, 1)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=5), max_size=6))
def test_every_flow_met_gets_exactly_one_final_answer(groups: list[list[tuple[int, bool, bool]]]) -> None:
    """Whatever payloads come in whatever order, however often."""
    clock = Clock()
    one = server(MADE, clock, max_waiting_flows=3)
    said, met = [], set()
    for group in groups:
        rows: Group = []
        for flow, is_payload, sure in group:
            met |= set() if is_payload else {flow}
            row = batch((flow, 1, 0.0), fast=(1, SURE if sure else UNSURE))
            rows += arrived(payloads((flow, 4)) if is_payload else row)
        said += one.take(rows)
    clock.now_ns += 100 * SECOND
    said += one.due()
    assert [flow for flow, *_ in finals(said)] == sorted(met)
    assert one.waiting == one._ahead.rows == one._ahead.nbytes == 0


def test_payload_messages_that_cannot_be_used_are_set_aside() -> None:
    to = Setup(MADE)
    good = payloads((5, 4), sent_time_ns=3000).encode()
    to.give(good[:-9], b"", batch((5, 1, 0.0)).encode(), topic="payloads")
    assert to.agent.counts()["messages_set_aside"] == 3
    letters = to.sink.records("dead-letters", "DeadLetter")
    assert {letter["topic"] for letter in letters} == {"payloads"}
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE)))
    to.give(good, topic="payloads")
    assert to.finals == [(name(5), "web", 2)]
    answer = to.predictions[-1]
    assert (answer["representation"], answer["depth"], answer["source_address"]) == (
        "payloads",
        4,
        "10.0.0.2",
    )
    assert (answer["probe_time_ns"], answer["bus_to_flows_ns"], answer["flows_ns"]) == (3000, 0, 0)
    told = to.tick()
    assert told["counters"]["rows_in_payloads"] == 1 and told["items_in"] == 2


def test_cards_of_packet_tiers_are_checked() -> None:
    with pytest.raises(ValueError, match="packet models, and no others, answer the representation payloads"):
        tier_card("lstm", 4, "payloads")
    with pytest.raises(ValueError, match="and no others"):
        tier_card("lstm", 4, kind="packet")
    with pytest.raises(ValueError, match="takes 1480 octets"):
        tier_card("lstm", 4, "payloads", kind="packet")


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_an_exported_model_answers_octets_as_the_packet_worker_does(tmp_path: Path, dtype: str) -> None:
    from tests.models.packet.made import graph, model
    from tests.models.packet.made import payloads as telling

    data = graph(dtype=dtype)
    card = packet_card("lstm", 4, sha256=hashlib.sha256(data).hexdigest(), classes=(3, 0, 1))
    classes = ("mail", "web", "other", "dns")
    told = cascade(card, classes=classes, thresholds=never((card,), 4)).card
    made = open_cascade(write_cascade(tmp_path, told, {card.file: data}))
    packets = telling(*((flow, 4, flow % 3) for flow in range(300)))
    rows = rows_of(packets, (4,)).columns["features"]
    tier = made.tiers[0]
    assert tier is not None
    found = tier.probabilities(rows)
    assert [classes[c] for c in found.argmax(axis=1)[:3]] == list(CLASSES)
    assert (found[:, 2] == 0).all(), "a class that it lacks is never its answer"
    alone = model(tmp_path / "alone", data=data).predict(packets.vectors())
    assert np.array_equal(found[:, [3, 0, 1]], alone)
    assert np.array_equal(tier.probabilities(rows.astype(np.float32)), found)
    (tmp_path / "flows" / "1" / card.file).write_bytes(data[:-1])
    with pytest.raises(CascadeError, match="is damaged"):
        open_cascade(tmp_path / "flows" / "1")
