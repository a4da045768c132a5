"""Twenty kill -9 at random moments: what is on the bus afterwards is what an undisturbed run leaves there."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.broker.flows import Worker, messages, offline_rows
from tests.broker.pipeline import Pipeline, offline_prediction_ids
from tests.waiting import wait_until

KILLS = int(os.environ.get("TEST_KILLS", "20"))
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
# A dead worker is found out soon; the broker that the tests start allows it.
SHORT = {"session_timeout_s": 2, "commit_interval_s": 0.1}


def moved_on(pipeline: Pipeline, before: tuple[int, int]) -> bool:
    """Return whether both groups have committed more than ``before``."""
    return all(now > then for now, then in zip(pipeline.moved(), before, strict=True))


def test_kills_at_random_moments_leave_no_trace(pipeline: Pipeline, demo_capture: Path) -> None:
    capture = str(demo_capture)
    sent = messages(capture, 50)
    rng = random.Random(SEED)
    rounds = max(1, KILLS // 2)
    starts: tuple[Callable[[], Worker], ...] = (
        lambda: pipeline.start(**SHORT),
        lambda: pipeline.start_model(**SHORT, checkpoint_interval_s=0.5),
    )
    running = [start() for start in starts]
    print(f"TEST_SEED={SEED}")  # shown where the test fails
    before = (0, 0)
    # The last piece is for the workers that nobody kills.
    ends = [len(sent) * number // (rounds + 1) for number in range(rounds + 2)]
    pieces = [sent[begin:end] for begin, end in pairwise(ends)]
    for piece in pieces[:-1]:
        with pipeline.feeding(piece, 1.0):
            wait_until(partial(moved_on, pipeline, before), 60)
            for which in rng.sample((0, 1), 2):
                time.sleep(rng.uniform(0, 0.5))
                running[which].kill()
                running[which] = starts[which]()
        before = pipeline.moved()
    pipeline.produce(pieces[-1])
    pipeline.wait_done(90)
    pipeline.wait_predicted()
    assert [worker.stop() for worker in running] == [0, 0]

    expected, rows = offline_rows(capture), pipeline.rows()
    assert set(rows) == set(expected)
    assert all(rows[row] >= count for row, count in expected.items())
    assert {p["prediction_id"] for p in pipeline.predictions()} == offline_prediction_ids(capture)
    assert running[0].counters["states_restored"] > 0
    for name in ("states_outdated", "states_unusable", "batches_missing", "messages_set_aside"):
        assert running[0].counters[name] == 0
    assert running[1].counters["messages_set_aside"] == 0
    told = [line for worker in pipeline.workers for line in worker.told]
    assert not [line for line in told if "error" in line or "Traceback" in line]
