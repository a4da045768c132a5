"""Labels onto the bus: ``flowgauge labels``, and ``flowgauge label --bus``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from producers.labels import LabelTable
from schemas.codec import encode
from schemas.errors import BusError
from schemas.flow_key import parse_flow_id, partition_of
from schemas.topics import LABELS

DRAIN_TIMEOUT_S = 30.0
_LONGEST_NS = 1 << 62


def publish(
    records: Iterable[Mapping[str, Any]], bus: BusSettings, stop: Callable[[], bool]
) -> dict[str, int]:
    """Publish ``Label`` records; return how many were published and acknowledged.

    Raises:
        BusError: no broker, no topic, or labels that were not acknowledged.
    """
    topic = topic_name(bus, LABELS)
    sink = BusProducer(bus)
    sink.connect(on_wait=lambda line: print(f"flowgauge: {line}", file=sys.stderr, flush=True))
    sink.require(topic, bus.partitions)
    for record in records:
        if stop():
            break
        flow_id = str(record["flow_id"])
        partition = int(partition_of(np.uint64(parse_flow_id(flow_id)), bus.partitions))
        sink.produce(topic, encode("Label", record), partition, flow_id, items=1)
    sink.flush(DRAIN_TIMEOUT_S)
    if sink.acked != sink.sent:
        raise BusError(
            f"bus {bus.bootstrap}: {sink.sent - sink.acked:,} of {sink.sent:,} labels were not acknowledged"
        )
    return {"labels_published": sink.sent, "labels_acknowledged": sink.acked}


def table_records(table: LabelTable, probe: str, offset_ns: int) -> Iterable[dict[str, object]]:
    """Yield the rows of a labels file as ``Label`` records of a probe, their times moved by ``offset_ns``."""
    for row, flow_id in enumerate(table.flow_ids(probe, offset_ns).tolist()):
        yield table.record(row, flow_id, probe, offset_ns, time.time_ns())


def fits(table: LabelTable, offset_ns: int) -> bool:
    """Return whether all times stay times when they are moved by ``offset_ns``."""
    if not table.rows:
        return True
    least, most = int(table.start_ns.min()), int(table.end_ns.max())
    return least + offset_ns >= 0 and most + offset_ns <= _LONGEST_NS
