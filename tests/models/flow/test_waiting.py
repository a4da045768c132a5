"""The table of flows against a plain model of it, and the state that it leaves."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flow.state import load, save
from models.flow.table import DONE, HELD, NOTHING
from models.flow.waiting import WaitingFlows
from schemas.errors import CodecError
from tests.models.flow.scripted import UNSURE, arrived, batch
from tests.models.flow.test_server import server

FLOWS = st.lists(st.integers(1, 40), max_size=8)


def ids(flows: list[int]) -> np.ndarray:
    # Ids that differ in their upper bits alone, too.
    return np.array([(flow % 8) << 61 | flow // 8 for flow in flows], np.uint64)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["admit", "hold", "finish"]), FLOWS), max_size=40))
def test_flows_are_found_until_newer_ones_take_their_place(steps: list[tuple[str, list[int]]]) -> None:
    table, model = WaitingFlows(2, 8, 16), OrderedDict[int, bool]()
    for what, flows in steps:
        if what == "admit":
            overwritten = table.overwritten(len(flows))
            old = list(model)[: max(0, len(model) + len(flows) - 16)]
            waits = {flow for flow in old if model[flow]}
            assert len(waits) <= len(overwritten)
            table.finish(table.entries(overwritten), np.zeros(len(overwritten)))
            for flow in [f for f in model if table.held(table.find(ids([f])))[0] < 0]:
                model[flow] = False
            places = table.admit(ids(flows)).tolist()
            for flow, place in zip(flows, places, strict=True):
                assert (place < 0) == (flow in model)
                if flow not in model:
                    model[flow] = False
                    if len(model) > 16:
                        model.popitem(last=False)
        else:
            known = [flow for flow in dict.fromkeys(flows) if flow in model]
            places = table.find(ids(known))
            if what == "hold":
                known = known[: table.room]
                places = places[: len(known)]
                rows = np.zeros(len(known), HELD)
                rows["flow_id"] = ids(known)
                table.hold(places, rows, np.full(len(known), 5), 5)
            else:
                table.finish(places, np.zeros(len(known)))
            for flow in known:
                model[flow] = what == "hold"
        found = table.find(ids(list(range(1, 41)))).tolist()
        assert [place >= 0 for place in found] == [flow in model for flow in range(1, 41)]
        waiting = sorted(flow for flow, waits in model.items() if waits)
        assert sorted(table.pool["flow_id"][table.all_waiting()].tolist()) == sorted(ids(waiting).tolist())
        assert table.waiting == len(waiting)


def test_what_was_said_of_a_flow_is_kept_by_tier() -> None:
    table = WaitingFlows(2, 4, 16)
    places = table.admit(ids([1, 2]))
    table.note(places, 0, np.array([1, 0]))
    table.finish(places[:1], np.array([1]))
    assert [table.said(int(place)) for place in places] == [[1, NOTHING, 1], [0, NOTHING, NOTHING]]
    assert table.held(places).tolist() == [DONE, DONE] and not table.is_scored(int(places[0]))
    table.score(int(places[0]))
    assert table.is_scored(int(places[0])) and table.state_bytes > 0


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_a_broken_state_is_refused(cut: int) -> None:
    one = server()
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    data = save(one.waiting_flows(0, {"features.early": 3}))
    with pytest.raises(CodecError):
        load(data[:cut])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_state_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        load(data)
