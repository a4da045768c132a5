"""A packet model among the tiers of a study: its rows are what a probe sends, and it is taken as it is."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skl2onnx")

from models.flow.agent import CascadeAgent
from models.flow.bundle import open_cascade
from models.flow.card import read_cascade_card
from models.flow.config import CascadeSettings
from models.flow.octets import COLUMNS, REPRESENTATION
from models.flow.study.captures import LabelledCapture, from_captures
from models.flow.study.choose import candidates
from models.flow.study.data import FlowData, Rows, load, save
from models.flow.study.make import write
from models.flow.study.packet import payload_rows
from models.flow.study.plan import Budget, Plan, checked, settle
from models.flow.study.report import write_report
from models.flow.study.results import results
from models.flow.study.run import Study, run
from producers.config import BusSettings
from producers.followed import FlowRules
from schemas.errors import FlowgaugeError, InputError, SettingsError
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS
from streams.config import StreamsSettings
from streams.faust_app import Message
from tests.models.flow import made
from tests.models.flow.scripted import batch
from tests.models.flow.study_data import flow_data
from tests.models.flow.test_agent import Announced
from tests.models.online.test_agent import ListSink
from tests.models.packet.batches import payload_batch
from tests.models.packet.made import graph, model_folder
from tests.producers.payloads.test_replay import replayed

LAB = Path(__file__).parents[3] / "infra" / "lab" / "data"
KNOWN = ("web", "mail")
"""Classes of the packet model, in its order: it lacks one of the flows'."""


def packet_model(at: Path, classes: tuple[str, ...] = KNOWN, version: str = "1") -> Path:
    """Write a packet model that tells class i by octet 20 + i."""
    weights = np.zeros((FIRST_OCTETS, len(classes)), np.float32)
    weights[MASKED_OCTETS + np.arange(len(classes)), np.arange(len(classes))] = 9.0
    return model_folder(at, data=graph(weights), classes=classes, version=version)


def with_payloads(data: FlowData) -> FlowData:
    """Return flows with payloads in packet 3: of mail and web they tell the class, of dns nothing."""
    flows = np.flatnonzero(data.reached(3))[::2]
    octets = np.zeros((len(flows), FIRST_OCTETS), np.uint8)
    for i, name in enumerate(KNOWN):
        octets[data.label[flows] == data.classes.index(name), MASKED_OCTETS + i] = 255
    return replace(data, rows={**data.rows, (REPRESENTATION, 3): Rows(COLUMNS, flows, octets)})


def plan(folder: Path, **more: object) -> Plan:
    told = {"models": ("decision_tree",), "depths": (1,), "splits": 1, "packet_model": folder, "version": "7"}
    return checked(Plan(**{**told, "packet_depths": (3,), **more}))  # type: ignore[arg-type]


def go(data: FlowData, folder: Path, asked: Plan) -> Study:
    found = run(data, folder, asked, lambda: False, lambda key, done: None)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("study")
    chain = ("decision_tree@1", "packet@3")
    asked = plan(packet_model(folder / "models"), chain=chain, budget=Budget("share", 1.0))
    return go(with_payloads(flow_data()), folder, asked), folder


def test_the_packet_model_is_a_tier_by_its_classes_names(finished: tuple[Study, Path]) -> None:
    study, folder = finished
    (result,) = results(study)
    assert result.f1 > result.fast_f1 + 0.05 and result.share > 0.2
    card = read_cascade_card(write(study, folder, [result]))
    fast, deep = card.tiers
    assert (deep.name, deep.kind, deep.representation, deep.depth) == ("packet@3", "packet", "payloads", 3)
    assert [card.classes[i] for i in deep.classes] == list(KNOWN)
    assert deep.scores["model"] == "packets/1" and "model" not in fast.scores
    assert card.unknown[0].centre and not card.unknown[1].centre
    assert card.reference[1].confidence is not None and card.reference[1].inputs == ()


def test_the_settings_send_the_payloads_and_tell_of_flows_that_end_before(
    finished: tuple[Study, Path],
) -> None:
    study, folder = finished
    write(study, folder, results(study))
    told = tomllib.loads((folder / "cascade.toml").read_text())
    assert told["payloads"] == {"mode": "first", "first_packets": 3}
    (early,) = told["streams"]["representations"]
    assert (early["name"], early["depths"], early["ends"]) == ("early", [1, 3], True)


def test_it_serves_what_the_study_judged(finished: tuple[Study, Path]) -> None:
    """Through the agent: features and payloads in, the answers that the study had out. No Keras."""
    study, folder = finished
    cascade = open_cascade(write(study, folder, results(study)))
    cascade.set_shares((1.0,))
    data, sink = study.data, ListSink()
    agent = CascadeAgent(CascadeSettings(), BusSettings(partitions=4), sink, cascade, Announced())
    assert agent.topics == ("features.early", "payloads", "labels")
    first, octets = data.rows["early", 1], data.rows[REPRESENTATION, 3]
    some = octets.flows[:60]
    sent = payload_batch(
        *((int(f) + 1, 3, octets.values[i, MASKED_OCTETS:].tobytes()) for i, f in enumerate(some))
    )
    rows = batch(*((int(f) + 1, 1, 0.0) for f in some), names=first.columns)
    rows.columns["features"] = first.values[some]
    agent.on_message(Message("payloads", 0, 0, None, sent.encode(), 0))
    agent.on_message(Message("features.early", 0, 0, None, rows.encode(), 0))
    agent.on_drained()
    said = {
        int(r["flow_id"], 16) - 1: r for r in sink.records("predictions.flow", "Prediction") if r["final"]
    }
    assert sorted(said) == some.tolist() and {r["tier"] for r in said.values()} == {2}
    split = study.splits[0].models[study.chosen.chain.models[1]]
    known = [f for f in some.tolist() if data.classes[data.label[f]] in KNOWN]
    assert known and all(said[f]["label"] == data.classes[data.label[f]] for f in known)
    judged = [f for f in known if split.answer[f] >= 0]
    assert judged
    for flow in judged:
        assert said[flow]["label"] == data.classes[split.answer[flow]]
        assert said[flow]["confidence"] == pytest.approx(float(split.confidence[flow]), abs=1e-5)


def test_the_report_tells_of_it(finished: tuple[Study, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study, _ = finished
    text = write_report(study, tmp_path, results(study), tmp_path / "flows" / "7").read_text()
    assert "the packet model packets/1 is taken as it is" in text and "| packet@3" in text


def test_chains_never_begin_with_it(finished: tuple[Study, Path]) -> None:
    study, folder = finished
    chains = candidates(study.data, study.f1, study.row_us)
    assert any("packet@3" in str(chain) for chain in chains)
    assert all(chain.models[0][2] != "packet" for chain in chains)
    only = {model: f1 for model, f1 in study.f1.items() if model[2] == "packet"}
    assert candidates(study.data, only, study.row_us) == []
    with pytest.raises(SettingsError, match="packet@3: the first must be one that every flow has a row for"):
        go(study.data, folder, replace(study.plan, chain=("packet@3", "packet@3")))


def test_packet_models_that_do_not_fit(tmp_path: Path) -> None:
    data = with_payloads(flow_data(300))
    strange = plan(packet_model(tmp_path, ("web", "rtp")))
    with pytest.raises(InputError, match="knows the class rtp, of which there are no flows, or too few"):
        go(data, tmp_path / "a", strange)
    with pytest.raises(FlowgaugeError, match=r"card\.json: no model card"):
        settle(tmp_path, plan(tmp_path / "none"), data)
    with pytest.raises(SettingsError, match="of which packet model"):
        checked(Plan(packet_depths=(1,)))
    with pytest.raises(SettingsError, match="--packet-depths 3,1: rising numbers"):
        plan(tmp_path, packet_depths=(3, 1))
    none = Rows(COLUMNS, np.empty(0, np.int64), np.empty((0, FIRST_OCTETS), np.uint8))
    few = replace(data, rows={**data.rows, (REPRESENTATION, 3): none})
    found = go(few, tmp_path / "b", plan(packet_model(tmp_path / "m"), depths=(1, 3)))
    (refused,) = [point for point in found.points if point.failure]
    assert refused.failure == "0 flows have a payload in packet 3: too few"


def test_a_study_goes_on_with_the_same_packet_model_only(tmp_path: Path) -> None:
    data = with_payloads(flow_data(300))
    settle(tmp_path, plan(packet_model(tmp_path / "m")), data)
    settle(tmp_path, plan(tmp_path / "m" / "packets" / "1"), data)
    other = plan(packet_model(tmp_path / "m", ("mail", "dns", "web"), version="2"))
    with pytest.raises(SettingsError, match="this study was begun with packet_model"):
        settle(tmp_path, other, data)


def test_flow_data_keeps_octets(tmp_path: Path) -> None:
    data = with_payloads(flow_data(100))
    save(tmp_path / "flows.npz", data)
    rows = load(tmp_path / "flows.npz").rows[REPRESENTATION, 3]
    assert rows.values.dtype == np.uint8 and (rows.values == data.rows[REPRESENTATION, 3].values).all()
    everyone = np.ones(data.flows, np.bool_)
    assert rows.take(everyone).dtype == np.uint8
    assert data.covered(REPRESENTATION, 3).sum() == len(rows.flows) < data.reached(3).sum()


def test_rows_are_what_a_probe_sends() -> None:
    path = str(LAB / "demo.pcap.gz")
    batches, _, _ = replayed([path], {"mode": "first", "first_packets": 5})
    sent = {
        (int(b.columns["flow_id"][b.columns["flow_index"][i]]), octets.tobytes())
        for b in batches
        for i, octets in enumerate(b.vectors())
        if b.columns["packet_number"][i] == 5
    }
    rows = list(payload_rows(path, (1, 5), FlowRules()))
    found = {
        (int(flow), octets.tobytes())
        for b in rows
        for flow, depth, octets in zip(
            b.columns["flow_id"], b.columns["depth"], b.columns["features"], strict=True
        )
        if depth == 5
    }
    assert found == sent and len(sent) > 100


def test_the_demo_capture_gives_payloads_to_its_flows() -> None:
    plain = made.demo_flows()
    capture = LabelledCapture(str(LAB / "demo.pcap.gz"), "demo", made.demo_labels())
    wanted = [("early", 1), ("early", 5), (REPRESENTATION, 1), (REPRESENTATION, 5)]
    data = from_captures(
        "demo", [capture], StreamsSettings(), wanted, 10, 1, lambda done: None, lambda: False
    )
    assert data is not None and data.flows == plain.flows and (data.label == plain.label).all()
    deep = data.rows[REPRESENTATION, 5]
    assert deep.values.dtype == np.uint8 and (np.diff(deep.flows) > 0).all()
    assert (data.covered(REPRESENTATION, 5) <= data.reached(5)).all() and len(deep.flows) > 100
    assert not deep.values[:, :MASKED_OCTETS].any() and deep.values.any(axis=1).mean() > 0.99
    # A DNS flow begins with a query, and a TCP flow without payload.
    first = data.rows[REPRESENTATION, 1]
    begins = np.bincount(data.label[first.flows], minlength=len(data.classes))
    assert begins[data.classes.index("dns")] > 100 and begins[data.classes.index("ssh")] == 0
    assert list(data.features) == ["early"]
