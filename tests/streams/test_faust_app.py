"""A commit waits for what a handler brings to the bus in another thread; its messages do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from producers.config import BusSettings
from producers.telemetry import StageMeter
from schemas.errors import BusError
from streams.config import StreamsSettings
from streams.faust_app import Later, Runner

PATIENCE_S = 10


class Copying:
    """A handler whose copies take until the test lets them go."""

    def __init__(self) -> None:
        self.meter = StageMeter("flows", "packets")
        self.steps: list[str] = []
        self.go = threading.Event()
        self.threads: set[int] = set()
        self.failure: Exception | None = None

    def before_commit(self) -> Later:
        self.steps.append("copied")
        return self._write

    def _write(self) -> None:
        self.threads.add(threading.get_ident())
        assert self.go.wait(PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        self.steps.append("written")

    def hand_over(self) -> None:
        self.steps.append("handed over")

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)


def runner(handler: Copying, **settings: Any) -> Runner:
    return Runner(handler, ["packets"], BusSettings(), StreamsSettings(**settings))  # type: ignore[arg-type]


async def settled() -> None:
    """Let all that can go on without waiting for a thread do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_messages_go_on_while_copies_are_brought() -> None:
    async def run() -> None:
        commit = asyncio.ensure_future(of.before_commit())
        await settled()
        assert handler.steps == ["copied"] and not commit.done()
        handler.go.set()
        assert await commit

    handler = Copying()
    of = runner(handler)
    asyncio.run(run())
    assert handler.steps == ["copied", "written"]
    assert threading.get_ident() not in handler.threads


def test_neither_a_commit_nor_a_hand_over_begins_while_copies_are_read() -> None:
    async def run() -> None:
        first = asyncio.ensure_future(of.before_commit())
        await settled()
        first.cancel()  # whoever asked gave up; the thread goes on
        others = [asyncio.ensure_future(of.hand_over()), asyncio.ensure_future(of.before_commit())]
        await settled()
        assert handler.steps == ["copied"]
        handler.go.set()
        await asyncio.gather(*others)

    handler = Copying()
    of = runner(handler)
    of._holding = True
    asyncio.run(run())
    assert handler.steps[:2] == ["copied", "written"]
    assert sorted(handler.steps[2:]) == ["copied", "handed over", "written"]


@pytest.mark.parametrize(
    "failure, told", [(BusError("the bus is gone"), "the bus is gone"), (KeyError("a defect"), "KeyError")]
)
def test_copies_that_cannot_be_brought_stop_the_worker(failure: Exception, told: str) -> None:
    handler = Copying()
    handler.failure = failure
    handler.go.set()
    of = runner(handler)
    assert not asyncio.run(of.before_commit())
    assert of.failed and told in str(of.failure)


def test_copies_that_fail_after_their_commit_was_given_up_stop_the_worker() -> None:
    async def run() -> None:
        first = asyncio.ensure_future(of.before_commit())
        await settled()
        first.cancel()
        handler.go.set()
        assert not await of.before_commit()

    handler = Copying()
    handler.failure = BusError("the bus is gone")
    of = runner(handler)
    asyncio.run(run())
    assert of.failed and handler.steps == ["copied"]


def test_commits_come_less_often_the_more_they_take() -> None:
    handler = Copying()
    handler.go.set()
    of = runner(handler, commit_share=0.000_001)
    of._holding = True
    assert of.may_commit()
    assert asyncio.run(of.before_commit())
    assert not of.may_commit()
