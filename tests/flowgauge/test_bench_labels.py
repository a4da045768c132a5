"""Labels of the corpus name flows of every pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flowgauge.bench.corpus import Corpus, make_corpus
from flowgauge.bench.labels import ONE_IN, make_labels
from flowgauge.bench.run import DEMO_CAPTURE
from producers.labels import read_labels


def test_another_share_of_the_flows_is_labelled_in_each_pass() -> None:
    known = read_labels(str(DEMO_CAPTURE.with_name("demo.labels.csv")))
    with make_corpus([str(DEMO_CAPTURE)], 100_000, gap_s=1) as corpus, make_labels(corpus) as path:
        assert corpus.passes == 2
        assert path is not None
        made = read_labels(str(path))
    moved_ns = corpus.span_s * 10**9
    first = made.start_ns < made.start_ns.min() + moved_ns
    assert len(set(made.flow_hash[first].tolist()) & set(made.flow_hash[~first].tolist())) < first.sum() / 2
    assert first.sum() == -(-known.rows // ONE_IN)
    of_first, of_second = set(known.start_ns.tolist()), set((known.start_ns + moved_ns).tolist())
    assert set(made.start_ns[first].tolist()) <= of_first
    assert set(made.start_ns[~first].tolist()) <= of_second


def test_other_captures_have_no_labels(tmp_path: Path) -> None:
    corpus = Corpus((str(tmp_path / "some.pcap"),), (tmp_path / "link-type-1.pcap",), 1, 100, 1, 5, False)
    with make_labels(corpus) as path:
        assert path is None
    with make_labels(replace(corpus, captures=(str(DEMO_CAPTURE),) * 2)) as path:
        assert path is None
