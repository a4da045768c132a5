"""``decode``: from the bytes of a capture to packet columns, on one core."""

from __future__ import annotations

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from producers.sources.capture import open_capture


def decode(corpus: Corpus, min_seconds: float) -> Result:
    """Measure reading, walking and decoding the corpus; packets that were skipped are not counted."""
    _decode_all(corpus)
    return Result.of_rate("decode", measure(lambda: _decode_all(corpus), min_seconds))


def _decode_all(corpus: Corpus) -> int:
    packets = 0
    for path in corpus.paths:
        with open_capture(str(path)) as capture:
            for block in capture.blocks():
                packets += block.packets
    return packets
