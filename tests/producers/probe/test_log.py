"""Log lines that say the same are limited; what differs is said."""

from __future__ import annotations

import logging

from producers.probe.log import RateLimit


def lines(limit: RateLimit, *messages: str) -> list[str]:
    records = [logging.LogRecord("x", logging.INFO, "file", 1, message, (), None) for message in messages]
    return [record.getMessage() for record in records if limit.filter(record)]


def test_the_same_but_for_its_numbers_is_said_once_an_interval_with_how_often() -> None:
    now = [0.0]
    limit = RateLimit(10.0, lambda: now[0])
    assert lines(limit, "eth0: dropped 17", "eth0: dropped 4,018", "eth1: dropped 3") == [
        "eth0: dropped 17",
        "eth1: dropped 3",
    ]
    now[0] = 9.9
    assert lines(limit, "eth0: dropped 5") == []
    now[0] = 10.0
    assert lines(limit, "eth0: dropped 6") == ["eth0: dropped 6 (2 more like this before)"]
    now[0] = 20.0
    assert lines(limit, "eth0: dropped 7") == ["eth0: dropped 7"]


def test_without_an_interval_all_is_said() -> None:
    assert len(lines(RateLimit(0.0), "same", "same", "same")) == 3
