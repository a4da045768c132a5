"""One worker for flow state and online model, killed again and again: it predicts and learns as an undisturbed one."""

from __future__ import annotations

import os
import random
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from schemas.codec import encode
from schemas.features import FeatureBatch
from schemas.flow_key import partition_of
from streams.config import StreamsSettings
from streams.offline import run_offline
from tests.broker.flows import PARTITIONS, SETTINGS, Worker, messages, offline_rows
from tests.broker.pipeline import Pipeline, offline_prediction_ids
from tests.models.online.batches import label
from tests.waiting import wait_until

KILLS = 3
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


def start(pipeline: Pipeline) -> Worker:
    given = {
        **{f"streams.{name}": value for name, value in SETTINGS.items()},
        "streams.session_timeout_s": 2,
        "streams.commit_interval_s": 0.1,
        "models.classifier": "naive_bayes",
        "models.state_dir": pipeline.folder / "models",
        "models.checkpoint_interval_s": 0.5,
    }
    return pipeline.run("models --with-flows", *(f"{key}={value}" for key, value in given.items()))


def teach(pipeline: Pipeline, capture: str) -> int:
    """Put a label of every flow of the capture on the bus; return how many rows there are to be learned."""
    batches: list[FeatureBatch] = []
    run_offline([capture], StreamsSettings(), partitions=PARTITIONS, probe="gate", on_batch=batches.append)
    rows = [batch for batch in batches if batch.representation in ("early", "flow")]
    starts = {
        int(flow): int(start)
        for batch in rows
        for flow, start in zip(batch.columns["flow_id"], batch.columns["start_ns"], strict=True)
    }
    values: dict[int, list[bytes | None]] = {}
    for flow, start_ns in starts.items():
        record = {**label(flow, ("dns", "web")[flow % 2]), "start_ns": start_ns}
        partition = int(partition_of(np.uint64(flow), PARTITIONS))
        values.setdefault(partition, []).append(encode("Label", record))
    for partition, some in values.items():
        pipeline.put("labels", some, partition)
    return sum(batch.rows for batch in rows)


def test_kills_at_random_moments_leave_no_trace(pipeline: Pipeline, demo_capture: Path) -> None:
    capture = str(demo_capture)
    sent, rng = messages(capture, 50), random.Random(SEED)
    print(f"TEST_SEED={SEED}")  # shown where the test fails
    ends = [len(sent) * number // (KILLS + 1) for number in range(KILLS + 2)]
    pieces = [sent[begin:end] for begin, end in pairwise(ends)]
    worker, before, lessons = start(pipeline), 0, 0
    for piece in pieces[:-1]:
        with pipeline.feeding(piece, 1.0):
            wait_until(partial(pipeline.moved_past, before), 60)
            lessons = lessons or teach(pipeline, capture)
            time.sleep(rng.uniform(0, 1.0))
            worker.kill()
            worker = start(pipeline)
        before = sum(pipeline.committed())
    pipeline.produce(pieces[-1])
    pipeline.wait_done(90)
    wait_until(
        lambda: pipeline.progress("flowgauge-flows", ("labels",))["labels"] == pipeline.ends("labels"), 60
    )
    assert worker.stop() == 0

    expected, rows = offline_rows(capture), pipeline.rows()
    assert set(rows) == set(expected)
    assert all(rows[row] >= count for row, count in expected.items())
    assert {p["prediction_id"] for p in pipeline.predictions()} == offline_prediction_ids(capture)
    counters = worker.counters
    assert counters["rows_received"] - counters["rows_repeated"] == lessons
    assert counters["rows_learned"] == lessons
    assert counters["model_states_restored"] == 1 and counters["states_restored"] == PARTITIONS
    for name in ("states_outdated", "states_unusable", "batches_missing", "messages_set_aside"):
        assert counters[name] == 0
    told = [line for worker in pipeline.workers for line in worker.told]
    assert not [line for line in told if "error" in line or "Traceback" in line]
