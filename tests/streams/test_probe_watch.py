"""Probes that fall silent, come back, begin anew or end in order."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streams.probe_watch import ONE_LIFE_NS, ProbeWatch
from tests.streams.made import SECOND, Made, batch

LIFE = 1_700_000_000 * SECOND


class Watched:
    """A watch, its clock and its gauges."""

    def __init__(self) -> None:
        self.watch = ProbeWatch(10 * SECOND)
        self.gauges: dict[str, float] = {}
        self.now_s = 100.0

    def hear(self, probe: str = "a", epoch: int = LIFE, *, end: bool = False) -> None:
        packets: list[Made] = [] if end else [Made(LIFE)]
        self.watch.heard(batch(packets, probe=probe, epoch=epoch, end_of_stream=end), self._now_ns)

    def later(self, seconds: float, *, behind: bool = False) -> dict[str, float]:
        self.now_s += seconds
        self.watch.look(self._now_ns, behind=behind)
        self.watch.tell(self._gauge, self._now_ns)
        return self.gauges

    @property
    def _now_ns(self) -> int:
        return round(self.now_s * SECOND)

    def _gauge(self, name: str, value: Any) -> None:
        if value is None:
            del self.gauges[name]
        else:
            self.gauges[name] = value


def test_a_silent_probe_is_told_once_and_again_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flowgauge")
    w = Watched()
    w.hear("a")
    w.hear("b")
    assert w.later(9)["probes_silent"] == 0
    w.hear("b")
    found = w.later(2)
    assert (found["probes"], found["probes_silent"], found["probe_silent_s_a"]) == (2, 1, 11)
    assert "probe_silent_s_b" not in found
    w.later(5)
    assert [r.getMessage() for r in caplog.records] == ["probe a is silent for 11.0 s"]
    w.hear("a")
    found = w.later(1)
    assert found["probes_silent"] == 0 and "probe_silent_s_a" not in found
    assert caplog.records[-1].getMessage() == "probe a is heard again after 16.0 s"
    assert w.watch.counters == {"probe_silences": 1}


def test_a_probe_that_ended_may_be_silent() -> None:
    w = Watched()
    w.hear()
    w.hear(end=True)
    assert w.later(1000)["probes_silent"] == 0
    assert w.gauges["probe_heard_s_a"] == 0
    w.hear(epoch=LIFE + 60 * SECOND)
    assert w.later(5)["probes_restarted"] == 0
    assert w.later(6)["probes_silent"] == 1


def test_who_is_silent_stays_so_when_the_broker_goes() -> None:
    w = Watched()
    w.hear("a")
    assert w.later(11)["probes_silent"] == 1
    w.hear("b")
    for _ in range(3):
        w.watch.restart_silence(w._now_ns)
        assert w.later(9)["probes_silent"] == 1
    assert w.later(2)["probes_silent"] == 2
    assert w.gauges["probe_silent_s_a"] > 30


def test_what_waits_on_the_bus_may_be_of_a_silent_probe() -> None:
    w = Watched()
    w.hear()
    assert w.later(500, behind=True)["probes_silent"] == 0
    # Once nothing waits, it still has its time.
    w.hear()
    assert w.later(5)["probes_silent"] == 0


def test_a_restart_without_an_end_is_counted_by_probe(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flowgauge")
    w = Watched()
    w.hear("a")
    w.hear("b")
    w.hear("a", LIFE + ONE_LIFE_NS + 1)
    w.hear("a", LIFE)  # what was on its way from the former life
    w.hear("b", LIFE + 5)  # another process of the same probe
    found = w.later(1)
    assert (found["probes_restarted"], found["probe_restarts_a"]) == (1, 1)
    assert "probe_restarts_b" not in found
    assert w.watch.counters == {"probe_restarts": 1}
    assert "probe a began anew without having ended" in caplog.text


def test_a_probe_of_a_former_worker_has_its_time_from_now_on() -> None:
    w = Watched()
    w.watch.known("a", LIFE, False, round(w.now_s * SECOND))
    w.watch.known("done", LIFE, True, round(w.now_s * SECOND))
    assert w.later(9)["probes_silent"] == 0
    assert w.later(2)["probes_silent"] == 1
