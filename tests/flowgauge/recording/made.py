"""A recorder without a bus, the messages it is given, and what is in its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from flowgauge.recording.config import RecordSettings
from flowgauge.recording.rows import FeatureShape, Message
from flowgauge.recording.segment import Recorder
from flowgauge.recording.store import Store
from producers.telemetry import StageMeter
from schemas.features import FeatureBatch
from tests.flowgauge.batches import feature_batch

TOPIC = "features.flow"
FACTS = {"bus": "test"}
DAY_NS = 24 * 3600 * 10**9


def batch(number: int, rows: int = 3, probe: str = "gate", **columns: Any) -> FeatureBatch:
    """Return a batch whose flow ids are ``number`` × 1000 and up."""
    made = feature_batch(rows)
    ids = {"flow_id": np.arange(number * 1000, number * 1000 + rows, dtype=np.uint64)}
    return replace(made, probe=probe, columns={**made.columns, **ids, **columns})


def messages(numbers: Sequence[int], **options: Any) -> list[Message]:
    """Return a message for each number, which is its offset too."""
    return [Message(number, None, batch(number, **options).encode()) for number in numbers]


def refused(message: Message, why: str) -> None:
    raise AssertionError(f"offset {message.offset}: {why}")


def recorder(store: Store, at: int = 0, clock: Any = lambda: 0.0, **settings: Any) -> Recorder:
    """Return a recorder of partition 0 of TOPIC."""
    out = Recorder(store, RecordSettings(**settings), FACTS, StageMeter("record", "rows"), clock=clock)
    out.add(TOPIC, 0, FeatureShape(), at)
    return out


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet"))


def table(root: Path) -> Any:
    """Return all rows, folders' values as columns."""
    found = [root / name for name in files(root)]
    return ds.dataset(
        found, partitioning=ds.partitioning(flavor="hive"), partition_base_dir=str(root)
    ).to_table()


def flow_ids(root: Path) -> Counter[int]:
    """Return how often each flow id is recorded."""
    if not files(root):
        return Counter()
    return Counter(int(text, 16) for text in table(root)["flow_id"].to_pylist())


def ids_of(numbers: Sequence[int], rows: int = 3) -> Counter[int]:
    return Counter(number * 1000 + row for number in numbers for row in range(rows))
