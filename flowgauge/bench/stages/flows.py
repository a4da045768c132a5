"""``flows``: from the bytes of a capture to the rows of all representations, on one core and without a bus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from producers.sources.capture import open_capture
from streams.config import StreamsSettings
from streams.offline import Offline


@dataclass
class Found:
    """What flows a corpus holds."""

    packets: int = 0
    flows: int = 0
    rows: Counter[str] = field(default_factory=Counter)


def flows(corpus: Corpus, settings: StreamsSettings, partitions: int, min_seconds: float) -> Result:
    """Measure decoding, batching, the flow table and every representation."""
    found = make_flows(corpus, settings, partitions)
    rate = measure(lambda: make_flows(corpus, settings, partitions).packets, min_seconds)
    rows = {name: count / found.packets for name, count in found.rows.items()}
    return Result.of_rate("flows", rate, rows_per_packet={name: round(n, 5) for name, n in rows.items()})


def make_flows(corpus: Corpus, settings: StreamsSettings, partitions: int) -> Found:
    """Make the rows of the corpus and count them; every packet is in one flow, so the tables start empty."""
    offline = Offline(settings, partitions, "bench")
    found = Found()
    for path in corpus.paths:
        with open_capture(str(path), names=offline.names) as capture:
            for batch in offline.feed(capture):
                found.rows[batch.representation] += batch.rows
            found.packets += capture.counters.accepted
    for batch in offline.end():
        found.rows[batch.representation] += batch.rows
    counts: Counter[str] = Counter()
    for partition in offline.partitions:
        counts.update(partition.counts())
    found.flows = sum(n for name, n in counts.items() if name.startswith("closed_"))
    return found
