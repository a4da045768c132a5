"""``decode``: from the bytes of a capture to packet columns, on one core."""

from __future__ import annotations

from collections.abc import Sequence

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from producers.privacy.privacy import Privacy
from producers.sources.capture import open_capture


def decode(corpus: Corpus, min_seconds: float) -> Result:
    """Measure reading, walking and decoding the corpus; packets that were skipped are not counted."""
    paths = tuple(map(str, corpus.paths))
    decode_all(paths)
    return Result.of_rate("decode", measure(lambda: decode_all(paths), min_seconds))


def decode_all(paths: Sequence[str], privacy: Privacy | None = None) -> int:
    """Decode captures, anonymised by ``privacy`` if that is given; return how many packets they have."""
    packets = 0
    for path in paths:
        with open_capture(path, privacy=privacy) as capture:
            for block in capture.blocks():
                packets += block.packets
    return packets
