"""``record``: feature messages and predictions into synced Parquet files, by one process, without Kafka."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.encode import kept_blocks, messages
from flowgauge.bench.stages.publish import answered
from flowgauge.recording.config import RecordSettings
from flowgauge.recording.rows import Message, Shape, shape_of
from flowgauge.recording.segment import Recorder
from flowgauge.recording.store import Store
from producers.telemetry import StageMeter
from schemas.errors import FlowgaugeError
from schemas.packets import decode_packet_batch
from streams.config import StreamsSettings
from streams.partition import Partition
from streams.plan import Plan

_AT_ONCE = 500
"""Messages that the consumer hands over together."""
_PREDICTIONS = 100_000


def record(corpus: Corpus, streams: StreamsSettings, partitions: int, min_seconds: float) -> list[Result]:
    """Measure on the rows that the flows agent makes of the corpus's first packets, and predictions on them."""
    plan = Plan(streams)
    held = [Partition(plan, number) for number in range(partitions)]
    features: dict[str, list[bytes]] = {}
    predictions: list[bytes] = []
    for value in messages(kept_blocks(corpus), partitions):
        batch = decode_packet_batch(value)
        for rows in held[batch.partition].apply(batch, 1, 1):
            features.setdefault(rows.representation, []).append(rows.encode())
            if len(predictions) < _PREDICTIONS and rows.representation != "window":
                predictions += answered(rows).messages()[0]
    runs = {
        "record_features": ("FeatureBatch", features, "rows/s"),
        "record_predictions": ("Prediction", {"predictions": predictions}, "records/s"),
    }
    return [
        _measured(name, schema, topics, min_seconds, unit) for name, (schema, topics, unit) in runs.items()
    ]


def _measured(
    name: str, schema: str, topics: dict[str, list[bytes]], min_seconds: float, unit: str
) -> Result:
    shape = shape_of(schema)
    if shape is None:
        raise FlowgaugeError(f"{schema} is not recorded")
    rows, octets = _record(shape, topics)
    rate = measure(lambda: _record(shape, topics)[0], min_seconds)
    count = sum(map(len, topics.values()))
    return Result.of_rate(
        name, rate, unit, rows_per_message=rows / count, bytes_per_row=round(octets / rows, 1)
    )


def _record(shape: Shape, topics: dict[str, list[bytes]]) -> tuple[int, int]:
    """Record messages into a folder that goes afterwards; return rows and octets on disk."""
    meter = StageMeter("record", "rows")
    with tempfile.TemporaryDirectory(prefix="flowgauge-bench-") as folder, Store(Path(folder)) as store:
        recorder = Recorder(store, RecordSettings(), {"bus": ""}, meter)
        for topic, values in topics.items():
            recorder.add(topic, 0, shape, 0)
            for begin in range(0, len(values), _AT_ONCE):
                part: Sequence[bytes] = values[begin : begin + _AT_ONCE]
                taken = [Message(begin + i, None, value) for i, value in enumerate(part)]
                recorder.take(topic, 0, taken, _refused)
        recorder.write_all()
    return meter.items_out, meter.output_bytes


def _refused(message: Message, why: str) -> None:
    raise FlowgaugeError(f"message {message.offset}: {why}")
