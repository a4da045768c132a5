"""The model's state on disk: a worker goes on where the last one stopped, or begins anew and says why."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.online import agent as agent_module
from models.online.agent import ModelAgent
from models.online.config import OnlineSettings
from models.online.keeper import StateKeeper
from models.online.learner import OnlineLearner
from models.online.state import MAGIC, Snapshot, StateError, StateFile, directory
from producers.config import BusSettings
from schemas.codec import encode
from streams.faust_app import Message
from streams.handover import Position
from tests.models.online.batches import feature_batch, label
from tests.models.online.test_agent import ListSink
from tests.waiting import wait_until

BUS = BusSettings(topic_prefix="lab.", partitions=8)
FEATURES, LABELS = "features.early", "labels"


class Broker:
    """Messages by source, and what the group has committed, in place of the bus."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.messages: dict[tuple[str, int], list[bytes]] = {(FEATURES, 3): [], (LABELS, 3): []}
        self.order: list[tuple[tuple[str, int], int]] = []
        self.committed = dict.fromkeys(self.messages, -1)
        self.delivered = dict.fromkeys(self.messages, 0)
        patch.setattr(agent_module, "positions", self._positions)
        patch.setattr(agent_module, "read_backlog", self._backlog)

    def put(self, topic: str, value: bytes) -> None:
        self.order.append(((topic, 3), len(self.messages[topic, 3])))
        self.messages[topic, 3].append(value)

    def deliver(self, to: ModelAgent) -> None:
        for source, offset in self.order:
            if offset >= self.delivered[source]:
                to.on_message(Message(*source, offset, b"", self.messages[source][offset]))
                to.on_drained()
                while to.on_idle():
                    pass
                self.delivered[source] = offset + 1

    def commit(self, by: ModelAgent) -> None:
        by.before_commit()()
        self.committed.update(self.delivered)

    def assign(self, to: ModelAgent) -> None:
        self.delivered = {source: max(0, offset) for source, offset in self.committed.items()}
        to.on_assigned({FEATURES: {3}, LABELS: {3}})

    def _positions(self, bus: BusSettings, group: str, partitions: Mapping[str, set[int]]) -> Any:
        return {
            (t, n): Position(self.committed[t, n], len(self.messages[t, n]))
            for t, s in partitions.items()
            for n in s
        }

    def _backlog(
        self, bus: BusSettings, group: str, spans: Mapping[tuple[str, int], tuple[int, int]], timeout_s: float
    ) -> Iterator[Message]:
        for source, offset in self.order:
            begin, end = spans.get(source, (0, 0))
            if begin <= offset < end:
                yield Message(*source, offset, b"", self.messages[source][offset])


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(monkeypatch)


def chosen(tmp_path: Path, **more: Any) -> OnlineSettings:
    values = {"classifier": "mondrian_forest", "parameters": {"trees": 3}, "state_dir": str(tmp_path)}
    return OnlineSettings(**{**values, "representations": ("early",), **more})


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., ModelAgent]]:
    agents = []

    def start(**more: Any) -> ModelAgent:
        agents.append(ModelAgent(chosen(tmp_path, **more), BUS, ListSink()))
        return agents[-1]

    yield start
    for agent in agents:
        agent.keeper.close()


def rows(flows: range) -> bytes:
    features = [[flow % 3 * 100.0, flow % 7, 64] for flow in flows]
    return feature_batch(list(flows), features, at_s=flows[0] / 10).encode()


def lesson(flow: int) -> bytes:
    return encode("Label", label(flow, f"app {flow % 3}"))


def fill(broker: Broker, flows: range, labelled: range) -> None:
    broker.put(FEATURES, rows(flows))
    for flow in labelled:
        broker.put(LABELS, lesson(flow))


def learned(agent: ModelAgent) -> dict[str, Any]:
    """Return all that an undisturbed agent and one that was restarted must agree on."""
    summary = agent.learner.summary()
    del summary["state_bytes"]
    for classifier in summary["classifiers"].values():
        del classifier["memory_bytes"]
    return summary


def saved(agent: ModelAgent) -> None:
    """Let the agent begin a copy with its next flush, and wait until it is on disk."""
    before = agent.keeper.counts["model_states_saved"]
    agent.keeper._next_s = 0.0
    agent.before_commit()()

    def done() -> bool:
        agent.keeper.poll()
        return agent.keeper.counts["model_states_saved"] > before

    wait_until(done, 30)


def undisturbed(broker: Broker, started: Callable[..., ModelAgent]) -> ModelAgent:
    whole = started(checkpoint_interval_s=0)
    broker.committed = dict.fromkeys(broker.messages, -1)
    broker.assign(whole)
    broker.deliver(whole)
    return whole


def test_labels_that_began_after_the_last_copy_are_learned_again(
    started: Callable[..., ModelAgent], broker: Broker
) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(20), range(0))
    broker.deliver(first)
    saved(first)
    broker.commit(first)
    fill(broker, range(20, 21), range(15))
    broker.deliver(first)
    broker.commit(first)
    first.keeper.close()
    second = started()
    broker.assign(second)
    assert second.totals["messages_caught_up"] == 16
    assert learned(second) == learned(first)


def test_a_worker_that_stopped_in_order_goes_on(broker: Broker, started: Callable[..., ModelAgent]) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 61), range(1, 51))
    broker.deliver(first)
    first.hand_over()
    broker.commit(first)
    first.keeper.close()
    second = started()
    assert second.keeper.counts == {"model_states_restored": 1}
    assert learned(second) == learned(first)
    broker.assign(second)
    fill(broker, range(61, 121), range(51, 121))
    broker.deliver(second)
    assert second.learner.counts["labels_matched"] == 120
    assert second.learner.counts["rows_learned"] == 120
    # The scores go on too: the answers before the restart are in them.
    assert second.learner.scores.summary()["early@1"]["n"] == 120
    assert learned(second) == learned(undisturbed(broker, started))


def test_a_killed_worker_learns_again_what_came_after_its_last_copy(
    broker: Broker, started: Callable[..., ModelAgent]
) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 61), range(1, 51))
    broker.deliver(first)
    saved(first)
    broker.commit(first)
    fill(broker, range(61, 91), range(51, 71))
    broker.deliver(first)
    broker.commit(first)
    fill(broker, range(91, 101), range(71, 91))
    broker.deliver(first)  # … and killed before the next commit
    first.keeper.close()
    second = started()
    sink = second.sink
    assert isinstance(sink, ListSink)
    broker.assign(second)
    assert second.totals["messages_caught_up"] == 1 + 20
    assert second.totals["messages_not_caught_up"] == 0
    assert sink.messages == []  # these predictions are on the bus
    broker.deliver(second)
    assert len(sink.messages) == 10
    assert learned(second) == learned(first) == learned(undisturbed(broker, started))


def test_messages_that_come_again_are_not_learned_twice(
    broker: Broker, started: Callable[..., ModelAgent]
) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 61), range(1, 51))
    broker.deliver(first)
    first.hand_over()  # … and killed before the commit
    before = learned(first)
    first.keeper.close()
    broker.committed = dict.fromkeys(broker.messages, 0)
    second = started()
    broker.assign(second)
    broker.deliver(second)
    assert second.totals["messages_redelivered"] == 51
    assert learned(second) == before


def test_what_another_worker_learned_meanwhile_is_not_learned_here(
    broker: Broker, started: Callable[..., ModelAgent]
) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 61), range(1, 51))
    broker.deliver(first)
    first.hand_over()
    broker.commit(first)
    first.keeper.close()
    fill(broker, range(61, 91), range(51, 71))
    broker.committed = {source: len(values) for source, values in broker.messages.items()}
    second = started()
    broker.assign(second)
    assert second.totals["messages_caught_up"] == 0
    assert learned(second) == learned(first)


def test_offsets_of_a_topic_made_anew_are_forgotten(
    broker: Broker, started: Callable[..., ModelAgent]
) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 61), range(1, 51))
    broker.deliver(first)
    first.hand_over()
    first.keeper.close()
    broker.messages = {(FEATURES, 3): [], (LABELS, 3): []}
    broker.order.clear()
    broker.put(FEATURES, rows(range(500, 510)))
    broker.committed = dict.fromkeys(broker.messages, -1)
    second = started()
    broker.assign(second)
    assert second.totals["offsets_of_other_topics"] == 2
    broker.deliver(second)
    assert second.learner.counts["rows_received"] == 70


def test_telemetry_after_a_restart_tells_only_what_is_new(
    broker: Broker, started: Callable[..., ModelAgent]
) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 11), range(1, 11))
    broker.deliver(first)
    first.hand_over()
    broker.commit(first)
    first.keeper.close()
    second = started()
    broker.assign(second)
    broker.put(LABELS, lesson(1))
    broker.deliver(second)
    second.on_tick({})
    assert isinstance(second.sink, ListSink)
    (told,) = second.sink.records("lab.telemetry.cost", "CostTelemetry")
    assert told["counters"] == {"labels_received": 1, "labels_repeated": 1, "model_states_restored": 1}
    assert told["gauges"]["scored.early@1"] == 10


def test_other_limits_do_not_end_a_model(broker: Broker, started: Callable[..., ModelAgent]) -> None:
    first = started()
    broker.assign(first)
    fill(broker, range(1, 61), range(1, 51))
    broker.deliver(first)
    first.hand_over()
    first.keeper.close()
    second = started(label_wait_s=5, max_waiting_flows=7, max_classes=9)
    assert second.keeper.counts["model_states_restored"] == 1
    assert second.learner.settings.max_classes == 9
    broker.put(FEATURES, rows(range(200, 210)))
    broker.delivered[FEATURES, 3] = 1
    broker.deliver(second)
    assert second.learner.summary()["flows_waiting"] == 7


def state(tmp_path: Path, agent: ModelAgent) -> Path:
    agent.hand_over()
    agent.keeper.close()
    (path,) = tmp_path.rglob("state")
    return path


def sealed(body: bytes) -> bytes:
    return body + hashlib.blake2b(body, digest_size=32).digest()


def header(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes()[len(MAGIC) :].split(b"\n")[0])
    return found


def with_header(path: Path, **more: Any) -> bytes:
    payload = path.read_bytes()[len(MAGIC) :].split(b"\n", 1)[1][:-32]
    return sealed(MAGIC + json.dumps({**header(path), **more}).encode() + b"\n" + payload)


UNUSABLE: list[tuple[str, Callable[[Path], bytes]]] = [
    ("is damaged: its checksum is wrong", lambda p: p.read_bytes()[:-1000]),
    ("is damaged", lambda p: p.read_bytes()[:500] + b"\0" + p.read_bytes()[501:]),
    ("is not a model state", lambda p: b""),
    ("is not a model state", lambda p: b"hello"),
    ("version is 0, not 2", lambda p: with_header(p, version=0)),
    ("river is 0.1, not", lambda p: with_header(p, river="0.1")),
    ("python is 2.7, not", lambda p: with_header(p, python="2.7")),
    (
        "cannot be read: UnpicklingError",
        lambda p: sealed(MAGIC + json.dumps(header(p)).encode() + b"\nnonsense"),
    ),
    (
        "holds something else",
        lambda p: sealed(MAGIC + json.dumps(header(p)).encode() + b"\n" + pickle.dumps(7)),
    ),
]


@pytest.mark.parametrize(("told", "damage"), UNUSABLE)
def test_a_state_that_cannot_be_used_is_told_in_one_line(
    told: str,
    damage: Callable[[Path], bytes],
    tmp_path: Path,
    started: Callable[..., ModelAgent],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = state(tmp_path, started())
    path.write_bytes(damage(path))
    with caplog.at_level(logging.INFO, logger="flowgauge"):
        second = started()
    assert second.keeper.counts == {"model_states_unusable": 1}
    assert second.learner.counts == {}
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith(f"model state {path}: ")
    assert told in line
    assert "\n" not in line
    assert line.endswith("the model begins anew")
    assert not path.exists()
    assert path.with_name("state.unusable").exists()
    second.hand_over()
    assert path.exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"classifier": "naive_bayes", "parameters": {}}, "classifier is"),
        ({"seed": 2}, "classifier is"),
        ({"representations": ("early", "flow")}, "representations is ['early'], not ['early', 'flow']"),
    ],
)
def test_a_state_of_another_model_is_put_aside(
    more: dict[str, Any],
    told: str,
    tmp_path: Path,
    started: Callable[..., ModelAgent],
    caplog: pytest.LogCaptureFixture,
) -> None:
    state(tmp_path, started())
    second = started(**more)
    assert second.keeper.counts == {"model_states_unusable": 1}
    assert told in caplog.text


def test_a_state_that_others_may_write_is_not_read(
    tmp_path: Path, started: Callable[..., ModelAgent], caplog: pytest.LogCaptureFixture
) -> None:
    path = state(tmp_path, started())
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    assert started().keeper.counts["model_states_unusable"] == 1
    assert "may have been written by someone else" in caplog.text


def test_each_worker_of_a_machine_has_a_place_of_its_own(
    tmp_path: Path, started: Callable[..., ModelAgent]
) -> None:
    first, second = started(), started()
    for agent in (first, second):
        agent.hand_over()
    places = directory(chosen(tmp_path), BUS)
    assert places == tmp_path / "lab.flowgauge-models" / "online"
    assert sorted(p.relative_to(places).as_posix() for p in places.rglob("state")) == ["0/state", "1/state"]
    first.keeper.close()
    (places / "0" / "state.4711.part").write_bytes(b"left by a worker that was killed")
    third = started()
    assert third.keeper.counts["model_states_restored"] == 1
    assert sorted(p.name for p in (places / "0").iterdir()) == ["lock", "state"]


def test_the_place_is_the_users_unless_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    where = directory(OnlineSettings(group="a/b"), BusSettings())
    assert where == tmp_path / "flowgauge" / "models" / "a%2Fb" / "online"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    where = directory(OnlineSettings(), BusSettings())
    assert where == Path("/home/someone/.local/state/flowgauge/models/flowgauge-models/online")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 512 bytes, in this process or one forked from it; pytest's own output neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("wait", [True, False])
def test_a_full_disk_costs_the_copy_and_nothing_else(
    wait: bool,
    tmp_path: Path,
    broker: Broker,
    started: Callable[..., ModelAgent],
    request: pytest.FixtureRequest,
) -> None:
    agent = started()
    broker.assign(agent)
    fill(broker, range(1, 31), range(1, 21))
    broker.deliver(agent)
    saved(agent)
    (path,) = tmp_path.rglob("state")
    whole = path.read_bytes()
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("flowgauge").addHandler(handler)
    request.addfinalizer(lambda: logging.getLogger("flowgauge").removeHandler(handler))
    with full_disk():
        for failed in (1, 2):
            agent.keeper.save(agent._snapshot(handed_over=False), wait=wait)
            deadline = time.monotonic() + 30
            while agent.keeper.counts["model_states_failed"] < failed and time.monotonic() < deadline:
                agent.keeper.poll()
                time.sleep(0.01)
    assert agent.keeper.counts["model_states_failed"] == 2
    assert told == [f"the model's state is not kept: {path}: {os.strerror(27)}; predicting goes on"]
    assert path.read_bytes() == whole
    assert sorted(p.name for p in path.parent.iterdir()) == ["lock", "state"]
    fill(broker, range(31, 41), range(21, 31))
    broker.deliver(agent)
    assert agent.learner.counts["labels_matched"] == 30


def test_nowhere_to_write_is_told_and_the_worker_runs(
    tmp_path: Path, started: Callable[..., ModelAgent], caplog: pytest.LogCaptureFixture, broker: Broker
) -> None:
    (tmp_path / "file").write_text("not a folder")
    agent = started(state_dir=str(tmp_path / "file"))
    assert agent.keeper.counts == {"model_states_failed": 1}
    assert "Not a directory; predicting goes on" in caplog.text
    fill(broker, range(1, 31), range(1, 21))
    broker.deliver(agent)
    assert not agent.keeper.is_due()
    agent.hand_over()
    assert agent.counts()["model_states_failed"] == 1
    with pytest.raises(StateError, match="Not a directory"):
        StateFile(chosen(tmp_path, state_dir=str(tmp_path / "file")), BUS)


def test_no_state_is_kept_when_its_interval_is_0(tmp_path: Path, started: Callable[..., ModelAgent]) -> None:
    agent = started(checkpoint_interval_s=0)
    agent.before_commit()()
    agent.hand_over()
    assert list(tmp_path.iterdir()) == []
    assert agent.keeper.counts == {}


def test_a_copy_under_way_gives_way_to_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = chosen(tmp_path)
    keeper = StateKeeper(settings, BUS)
    snapshot = Snapshot(OnlineLearner(settings), {("labels", 1): 5}, True)
    slow = StateFile.write

    def write(self: StateFile, given: Snapshot) -> None:
        if not given.handed_over:
            self._part(os.getpid()).write_bytes(b"half")
            time.sleep(60)
        slow(self, given)

    monkeypatch.setattr(StateFile, "write", write)
    keeper.save(Snapshot(snapshot.learner, {}, False), wait=False)
    child = keeper._child
    assert child is not None
    assert not keeper.is_due()
    keeper.save(snapshot, wait=True)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    (path,) = tmp_path.rglob("state")
    assert sorted(p.name for p in path.parent.iterdir()) == ["lock", "state"]
    keeper.close()
    assert keeper.counts == {"model_states_saved": 1}
    restored = StateKeeper(settings, BUS).restore()
    assert restored is not None
    assert (restored.next_offset, restored.handed_over) == ({("labels", 1): 5}, True)
