"""``flowgauge packet-models`` where no broker answers, and the bench stage without what it needs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from flowgauge.bench.corpus import make_corpus
from flowgauge.bench.stages import packet_models as stage
from producers.config import BusSettings
from schemas.errors import InputError, SettingsError
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS
from streams.config import StreamsSettings
from tests.flowgauge.test_command import HASTE, flowgauge, one_line
from tests.models.packet.made import graph, model_folder
from tests.producers.frames import Record, ethernet, ip4, pcap, tcp

CAPTURE = Path(__file__).parents[2] / "infra" / "lab" / "data" / "demo.pcap.gz"


def test_a_model_that_cannot_be_used_is_not_published(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, data=graph(octets=100))
    done = flowgauge("packet-models", "publish", str(folder), "--library", str(tmp_path / "library"), *HASTE)
    assert done.returncode == 3
    assert one_line(done) == f"{folder / 'model.onnx'}: its input has the shape (n, 100), not (packets, 1480)"
    assert not (tmp_path / "library").exists()


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    done = flowgauge("packet-models", "publish", str(tmp_path / "none"), *HASTE)
    assert (done.returncode, one_line(done)) == (
        3,
        f"{tmp_path / 'none' / 'card.json'}: no model card: No such file or directory",
    )


def test_show_prints_the_card(tmp_path: Path) -> None:
    model_folder(tmp_path, scores={"accuracy": 0.5})
    done = flowgauge("packet-models", "show", "packets", "--library", str(tmp_path))
    assert json.loads(done.stdout)["scores"] == {"accuracy": 0.5}
    done = flowgauge("packet-models", "show", "others", "--library", str(tmp_path))
    assert (done.returncode, one_line(done)) == (3, f"{tmp_path}: no model others")


def test_without_tensorflow_the_bench_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else name)
    setup = stage.Setup(StreamsSettings(), BusSettings(), 0.0, 1.0, False)
    with (
        make_corpus([str(CAPTURE)], 100) as corpus,
        pytest.raises(
            SettingsError, match=r"tensorflow not installed: pip install 'flowgauge\[study,packet\]'"
        ),
    ):
        stage.packet_models(corpus, setup, print)


def test_the_bench_takes_packets_as_long_as_the_captures() -> None:
    with make_corpus([str(CAPTURE)], 5000) as corpus:
        vectors = stage._captured(corpus)
    assert vectors.shape == (stage.BATCH, FIRST_OCTETS)
    assert not vectors[:, :MASKED_OCTETS].any()
    filled = (vectors != 0).any(axis=1)
    assert filled.mean() > 0.9 and vectors[:, -1].mean() < 10


def test_a_capture_without_payloads_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "handshake.pcap"
    empty.write_bytes(pcap([Record(ethernet(ip4(tcp())))]))
    with (
        make_corpus([str(empty)], 10) as corpus,
        pytest.raises(InputError, match=r"handshake\.pcap: no packet with"),
    ):
        stage._captured(corpus)
