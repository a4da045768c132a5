"""One worker for flow state and cascade, killed again and again: answers and rows are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skl2onnx")
from sklearn.tree import DecisionTreeClassifier

from flowgauge.settings_values import toml_value
from models.flow.bundle import open_cascade, write_cascade
from models.flow.config import CascadeSettings
from models.flow.study.export import sklearn_onnx
from models.flow.worker import with_flows
from producers.config import BusSettings
from schemas.codec import decode
from schemas.features import decode_feature_batch
from streams.config import RepresentationSettings, StreamsSettings
from streams.faust_app import Message
from tests.broker.flows import PARTITIONS, Flows, Worker, messages
from tests.broker.pipeline import Pipeline
from tests.models.flow import made
from tests.models.flow.test_agent import Announced
from tests.models.online.test_agent import ListSink
from tests.streams.made import Row, rows_of
from tests.waiting import wait_until

KILLS = 3
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
EARLY = RepresentationSettings(
    name="early", kind="early", features=("packet_sequence", "ttl"), depths=(1, 3), ends=True
)
STREAMS = StreamsSettings(representations=(EARLY,), silence_s=600)
CASCADE = CascadeSettings(name="services", wait_s=3600, silence_s=600, latency_target_ms=0)

Final = tuple[str, str, str, int]
"""Flow, prediction id, label, tier."""


@pytest.fixture
def flows(pipeline: Pipeline) -> Flows:
    return pipeline


def finals(records: list[dict[str, Any]]) -> set[Final]:
    return {(r["flow_id"], r["prediction_id"], r["label"], r["tier"]) for r in records if r["final"]}


def tree(columns: int) -> bytes:
    """Return a decision tree that is sure of short first packets alone."""
    rows = np.random.default_rng(1).integers(40, 120, (3000, columns)).astype(np.float32)
    classes = np.where(rows[:, 0] < 62, 0, 1 + np.arange(len(rows)) % 2)
    return sklearn_onnx(DecisionTreeClassifier(max_depth=1).fit(rows, classes), columns)


def cascade_folder(at: Path) -> Path:
    """Write a cascade that answers by columns of the flows agent's rows, after packets 1 and 3."""
    columns = {1: ("octets_1", "ttl_fwd"), 3: ("octets_2", "octets_3", "ttl_rev")}
    trees = {f"packet{depth}.onnx": tree(len(names)) for depth, names in columns.items()}
    tiers = [
        made.tier(file.partition(".")[0], depth, trees[file], columns=names)
        for file, (depth, names) in zip(trees, columns.items(), strict=True)
    ]
    return write_cascade(at, made.card(tiers), trees)


def undisturbed(folder: Path, capture: str) -> tuple[set[Final], Counter[Row]]:
    """Return the answers and rows of one worker without a bus."""
    sink, bus = ListSink(), BusSettings(partitions=PARTITIONS)
    both = with_flows(STREAMS, CASCADE, bus, sink, open_cascade(folder), Announced())
    offsets: Counter[int] = Counter()
    for partition, value in messages(capture, 50):
        both.on_message(Message("packets", partition, offsets[partition], None, value))
        both.on_drained()
        offsets[partition] += 1
    rows = (decode_feature_batch(m[1]) for m in sink.messages if m[0] == "features.early")
    return finals(sink.records("predictions.flow", "Prediction")), Counter(rows_of(rows))


def start(flows: Flows, library: Path) -> Worker:
    given = {
        "cascade.library": library,
        **{f"cascade.{name}": getattr(CASCADE, name) for name in CASCADE.model_fields_set},
        "streams.representations": toml_value([EARLY.model_dump(mode="json")]),
        "streams.silence_s": 600,
        "streams.session_timeout_s": 2,
        "streams.commit_interval_s": 0.1,
    }
    return flows.run("cascade serve --with-flows", *(f"{key}={value}" for key, value in given.items()))


def test_kills_at_random_moments_leave_no_trace(flows: Flows, demo_capture: Path, tmp_path: Path) -> None:
    folder, library = cascade_folder(tmp_path / "made"), tmp_path / "library"
    publish = [
        sys.executable,
        "-m",
        "flowgauge",
        "cascade",
        "publish",
        str(folder),
        "--library",
        str(library),
    ]
    publish += ["--bus", flows.bootstrap, "--set", f"bus.topic_prefix={flows.prefix}"]
    subprocess.run(publish, check=True, timeout=120, stdout=subprocess.DEVNULL)
    capture = str(demo_capture)
    sent, rng = messages(capture, 50), random.Random(SEED)
    print(f"TEST_SEED={SEED}")  # shown where the test fails
    ends = [len(sent) * number // (KILLS + 1) for number in range(KILLS + 2)]
    pieces = [sent[begin:end] for begin, end in pairwise(ends)]
    worker, before = start(flows, library), 0
    for piece in pieces[:-1]:
        with flows.feeding(piece, 1.0):
            wait_until(partial(flows.moved_past, before), 60)
            time.sleep(rng.uniform(0, 0.5))
            worker.kill()
            worker = start(flows, library)
        before = sum(flows.committed())
    flows.produce(pieces[-1])
    flows.wait_done(90)
    assert worker.stop() == 0

    expected, expected_rows = undisturbed(folder, capture)
    records = [decode("Prediction", value) for value in flows.read("predictions.flow")]
    assert finals(records) == expected and len(expected) > 1000
    assert {tier for _, _, _, tier in expected} == {1, 2}
    rows = Counter(rows_of(decode_feature_batch(value) for value in flows.read("features.early")))
    assert set(rows) == set(expected_rows)
    assert all(rows[row] >= count for row, count in expected_rows.items())
    ids = defaultdict(set)
    for record in records:
        if record["final"]:
            ids[record["flow_id"]].add(record["prediction_id"])
    assert all(len(found) == 1 for found in ids.values())
    counters = worker.counters
    assert counters["states_restored"] > PARTITIONS, "of flow state and of flows that wait"
    for name in ("states_unusable", "states_outdated", "batches_missing", "messages_set_aside"):
        assert counters[name] == 0
    told = [line for worker in flows.workers for line in worker.told]
    assert not [line for line in told if "error" in line or "Traceback" in line]
