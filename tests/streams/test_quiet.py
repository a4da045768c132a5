from __future__ import annotations

import logging

import pytest

from streams.quiet import OncePerOutage


def test_an_outage_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    noisy = logging.Logger("noisy")
    noisy.addHandler(OncePerOutage(logging.getLogger("flowgauge"), "bus x", quiet_s=5, clock=lambda: now[0]))
    handler = noisy.handlers[0]
    assert isinstance(handler, OncePerOutage) and not handler.in_outage
    for second in (0, 1, 4, 8, 12.9, 18, 19):
        now[0] = second
        noisy.error("lost at %g", second)
        noisy.warning("not even this")
        assert handler.in_outage
    now[0] = 24.5
    assert not handler.in_outage
    assert [r.getMessage() for r in caplog.records] == [
        "bus x: lost at 0; trying on",
        "bus x: lost at 18; trying on",
    ]
