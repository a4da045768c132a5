"""A Faust worker as small as can be, which logs what happens to it; run by ``test_faust_on_kafka4``.

``python -m tests.broker.faust_worker BOOTSTRAP GROUP TOPIC LOG EVENT_S``: one line of JSON per event in
``LOG``. An event takes ``EVENT_S`` seconds, so that there can be one in flight at a stop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver


class HandoverConsumer(driver.Consumer):  # type: ignore[misc]
    """Consumer that calls ``app.hand_over`` between the last event in flight and its commit.

    Faust itself commits first and signals after; and at a rebalance it forgets which events were acked since
    the last commit, so that they come again, even to the worker that had them.
    """

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Drain, hand over and commit while Faust still knows what was acked."""
        assignment = self.assignment()
        if assignment and not self.app.should_stop:
            self.stop_flow()
            self.app.flow_control.suspend()
            self.pause_partitions(assignment)
            self.app.flow_control.clear()
            await self.wait_empty()
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Wait for the events in flight, hand over, commit."""
        while not self.should_stop and self._unacked_messages:
            gc.collect()  # what was cleared from the queues is in a weak set
            if self._unacked_messages:
                await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        await self.app.hand_over()
        await self.commit_and_end_transactions()


def make_app(bootstrap: str, group: str, topic: str, log: Path, event_s: float) -> Any:
    """Return the app; ``hand_over`` runs once for each assignment."""
    sink = log.open("a", buffering=1, encoding="utf-8")

    def note(what: str, **fields: object) -> None:
        sink.write(json.dumps({"what": what, "time": time.monotonic(), **fields}) + "\n")

    app = faust.App(
        group, broker=f"kafka://{bootstrap}", datadir=tempfile.mkdtemp(), web_enabled=False,
        topic_allow_declare=False, topic_disable_leader=True, table_standby_replicas=0,
        consumer_auto_offset_reset="earliest", broker_session_timeout=6, broker_heartbeat_interval=1,
        broker_commit_interval=0.2 if not event_s else 60, stream_buffer_maxsize=64,
    )  # fmt: skip
    app.transport.Consumer = HandoverConsumer
    source = app.topic(topic, value_type=bytes, value_serializer="raw")
    loaded = False

    @app.agent(source, concurrency=1)  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            note("event", partition=message.partition, offset=message.offset, value=message.value.decode())
            await asyncio.sleep(event_s)
            note("done", partition=message.partition, offset=message.offset)

    @app.on_rebalance_complete.connect  # type: ignore[untyped-decorator]
    async def load(app: Any, **_: object) -> None:
        nonlocal loaded
        note("load", partitions=sorted(tp.partition for tp in app.consumer.assignment()))
        await asyncio.sleep(0.3)
        loaded = True
        note("loaded")

    async def hand_over() -> None:
        nonlocal loaded
        if loaded:
            loaded = False
            note("hand over")
            await asyncio.sleep(0.3)
            note("handed over")

    app.hand_over = hand_over
    return app


if __name__ == "__main__":
    bootstrap, group, topic, log, event_s = sys.argv[1:]
    sys.argv[1:] = []
    worker_app = make_app(bootstrap, group, topic, Path(log), float(event_s))
    faust.Worker(worker_app, loglevel="WARN").execute_from_commandline()
