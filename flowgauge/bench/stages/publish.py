"""``publish``: how many predictions a second one process brings to Kafka, from answers to acknowledgements."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import numpy as np

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.bus import bench_topics, kafka
from flowgauge.bench.stages.encode import kept_blocks, messages
from models.online.agent import prediction_items
from models.online.records import Predictions, prediction_ids
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.errors import BusError
from schemas.features import FeatureBatch
from schemas.packets import decode_packet_batch
from schemas.topics import PREDICTIONS_FLOW
from streams.config import StreamsSettings
from streams.partition import Partition
from streams.plan import Plan

_MODEL = ("online", "bench")
_LEAST_RECORDS = 50_000
_FLUSH_S = 60.0


def publish(
    corpus: Corpus,
    streams: StreamsSettings,
    bus: BusSettings,
    external: bool,
    min_seconds: float,
    on_step: Callable[[str], None],
) -> Result:
    """Measure making, encoding and publishing records for rows whose answers are there already.

    Raises:
        BusError: no broker, or messages were not acknowledged.
    """
    batches = list(_early_rows(corpus, streams, bus.partitions))
    with kafka(bus, external, on_step) as (bootstrap, _):
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        chosen = bus.model_copy(update={"bootstrap": bootstrap, "topic_prefix": prefix})
        with bench_topics(chosen, streams, external):
            sink = BusProducer(chosen)
            sink.connect()
            rate = measure(lambda: _publish(batches, chosen, sink), min_seconds)
    rows = [batch.rows for batch in batches]
    return Result.of_rate(
        "publish",
        rate,
        "records/s",
        predictions_per_s=round(rate.value),
        rows_per_batch=float(np.median(rows)),
    )


def _early_rows(corpus: Corpus, streams: StreamsSettings, partitions: int) -> Iterator[FeatureBatch]:
    """Yield the feature batches of the corpus's first packets, but for windows."""
    plan = Plan(streams)
    held = [Partition(plan, number) for number in range(partitions)]
    for value in messages(kept_blocks(corpus), partitions):
        batch = decode_packet_batch(value)
        for rows in held[batch.partition].apply(batch, 1, 1):
            if rows.representation != "window":
                yield rows


def answered(batch: FeatureBatch) -> Predictions:
    """Return predictions on a batch, the same answer for each row."""
    ids = prediction_ids(batch, _MODEL[0])
    return Predictions(batch, ids, [("class", 0.5)] * batch.rows, *_MODEL, received_time_ns=1, made_time_ns=2)


def _publish(batches: list[FeatureBatch], bus: BusSettings, sink: BusProducer) -> int:
    """Publish a record for each row, as the model agent does; return how many."""
    topic = topic_name(bus, PREDICTIONS_FLOW)
    records = 0
    while records < _LEAST_RECORDS:
        for batch in batches:
            items = prediction_items(answered(batch), bus.partitions)
            sink.produce_items(topic, items)
            records += len(items)
    if left := sink.flush(_FLUSH_S):
        raise BusError(f"{left:,} predictions were not acknowledged")
    sink.check()
    return records
