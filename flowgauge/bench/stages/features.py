"""``features_…``: what chosen features cost, from packet columns to rows on one core, and what they leave behind."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.encode import KEPT_PACKETS
from flowgauge.features import write_new
from producers.sources.capture import open_capture
from schemas.columns import Array
from schemas.packets import PacketBatch
from streams.engine import FeatureEngine
from streams.message_size import COMPRESSION, LEVEL, compressed_octets
from streams.probe_flows import ProbeFlows
from streams.table import used_bytes

COUNTERS = ("counters",)
TCP = ("tcp_flag_counts", "tcp_delivery", "tcp_rtt", "tcp_receive_window")
VIDEO = ("video_segments",)
OWN = "changes"
"""A feature of the user's: the one that `flowgauge feature new` writes."""
ALL = COUNTERS + TCP + VIDEO
EVERY_S = 10.0
"""Length of the windows: that of the measurements these figures are held against."""
FULL_FLOWS = 1 << 14


def features(corpus: Corpus, partitions: int, min_seconds: float) -> list[Result]:
    """Measure packet counters in windows of 10 s: alone, with a feature of the user's, with TCP state and video."""
    alone, together = FeatureEngine(COUNTERS, every_s=EVERY_S), FeatureEngine(ALL, every_s=EVERY_S)
    with tempfile.TemporaryDirectory(prefix="flowgauge-bench-") as folder:
        own = str(write_new(OWN, Path(folder)))
        with_own = FeatureEngine((*COUNTERS, OWN), every_s=EVERY_S, feature_files=(own,))
    return [
        _rate("features_counters", alone, corpus, partitions, min_seconds),
        _rate("features_counters_own", with_own, corpus, partitions, min_seconds),
        _rate("features_counters_tcp_video", together, corpus, partitions, min_seconds),
        _state(together),
        _record(together, corpus, partitions),
    ]


def _rate(name: str, engine: FeatureEngine, corpus: Corpus, partitions: int, min_seconds: float) -> Result:
    batches = kept_columns(engine, corpus, partitions)
    packets = sum(len(columns["time_ns"]) for _, columns in batches)
    tables = [engine.table() for _ in range(partitions)]

    def run() -> int:
        for number, columns in batches:
            for _ in tables[number].apply(columns):
                pass
        for table in tables:
            for _ in table.end_all():
                pass
        return packets

    run()
    rate = measure(run, min_seconds)
    return Result.of_rate(name, rate, packets=packets, features=list(engine.features))


def kept_columns(
    engine: FeatureEngine, corpus: Corpus, partitions: int
) -> list[tuple[int, dict[str, Array]]]:
    """Return (partition, columns) of the corpus's first packets, batched as a probe does it."""
    batches: list[tuple[int, dict[str, Array]]] = []
    packets, batcher = 0, engine.batcher(partitions)
    for path in corpus.paths:
        with open_capture(str(path)) as capture:
            for block in capture.blocks(extra=engine.needs):
                for number, columns in batcher.add(block):
                    batches.append((number, {name: column.copy() for name, column in columns.items()}))
                packets += block.packets
                if packets >= KEPT_PACKETS:
                    return batches
    for number, columns in batcher.flush():
        batches.append((number, {name: column.copy() for name, column in columns.items()}))
    return batches


def _state(engine: FeatureEngine) -> Result:
    from flowgauge.bench.synthetic import columns_of
    from schemas.packets import MAX_PACKETS

    flows: ProbeFlows = engine.table(max_flows=FULL_FLOWS)
    for first in range(0, FULL_FLOWS, MAX_PACKETS):
        for _ in flows.apply(columns_of(first, MAX_PACKETS)):
            pass
    return Result(
        "features_state_bytes_per_flow",
        round(used_bytes(flows.table) / flows.active, 1),
        "bytes/flow",
        details={
            "flows": flows.active,
            "row_bytes": flows.table.rows.itemsize,
            "features": list(engine.features),
        },
    )


def _record(engine: FeatureEngine, corpus: Corpus, partitions: int) -> Result:
    whole, split = _record_bytes(engine, corpus, 1), _record_bytes(engine, corpus, partitions)
    return Result(
        "features_record_bytes",
        round(split[1] / split[0], 1),
        "bytes",
        details={
            "rows": split[0],
            "partitions": partitions,
            "plain": round(split[2] / split[0], 1),
            "in_one_partition": round(whole[1] / whole[0], 1),
            "in_one_partition_plain": round(whole[2] / whole[0], 1),
            "compression": f"{COMPRESSION} level {LEVEL}, each message by itself",
        },
    )


def _record_bytes(engine: FeatureEngine, corpus: Corpus, partitions: int) -> Sequence[int]:
    """Return rows, their bytes in compressed messages, and in messages as they are."""
    tables = engine.partitions(partitions)
    counted = np.zeros(3, np.int64)
    for sequence, (number, columns) in enumerate(kept_columns(engine, corpus, partitions)):
        batch = PacketBatch("bench", 1, number, partitions, sequence, 0, columns, replayed=True)
        for rows in tables[number].apply(batch, 0, 0):
            value = rows.encode()
            counted += rows.rows, compressed_octets(value), len(value)
    for table in tables:
        for rows in table.end_all(0):
            value = rows.encode()
            counted += rows.rows, compressed_octets(value), len(value)
    return [int(n) for n in counted]
