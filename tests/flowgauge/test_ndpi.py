"""NFStream in a process of its own: what comes of it when that process, or its meter, is gone or has nothing to say."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flowgauge.ndpi import NdpiFlow, NdpiReader
from schemas.errors import InputError
from tests.conftest import ROOT

# Stands for NFStream, whose meter is a child as well; what it does is the capture's name.
NFSTREAM = """
import os, pathlib, signal, time, types

class NFStreamer:
    def __init__(self, source, **options):
        self.source, self.options = source, options

    def __iter__(self):
        what = pathlib.Path(self.source).name
        meter = os.fork()
        if meter == 0:
            if what == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if what == "refuse":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7 if what == "fail" else 0)
        if what == "vanish":
            os._exit(3)
        if what in ("crash", "fail", "silence"):
            while True:
                time.sleep(3600)
        os.waitpid(meter, 0)
        if what == "refuse":
            raise ValueError("no\\n capture")
        for i in range(600):
            yield types.SimpleNamespace(
                src_ip="10.0.0.2", src_port=i, dst_ip="10.0.0.1", dst_port=53, protocol=17,
                bidirectional_first_seen_ms=i, bidirectional_last_seen_ms=i + 5,
                application_name="DNS", application_is_guessed=int(self.options["idle_timeout"] == 1),
            )
"""


@pytest.fixture
def nfstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of captures; NFStream's stand-in is found before NFStream."""
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "nfstream.py").write_text(NFSTREAM)
    monkeypatch.syspath_prepend(str(tmp_path / "stand-in"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "stand-in"), str(ROOT)]))
    for name in ("crash", "fail", "vanish", "silence", "refuse", "good"):
        (tmp_path / name).write_bytes(bytes(24))
    return tmp_path


@pytest.fixture
def reader(nfstream: Path) -> Iterator[NdpiReader]:
    with closing(NdpiReader(0.3, 60, 20, lambda: False)) as reader:
        yield reader


def read(reader: NdpiReader, path: Path) -> list[NdpiFlow]:
    return list(reader.flows(str(path)))


def test_flows_come_in_order_and_one_process_reads_many_captures(reader: NdpiReader, nfstream: Path) -> None:
    flows = read(reader, nfstream / "good")
    assert [flow.first_ms for flow in flows] == list(range(600))
    assert {(flow.label, flow.guessed, flow.last_ms - flow.first_ms) for flow in flows} == {("DNS", True, 5)}
    assert flows[7].key[1] == 53 and flows[7].key[3] == 7  # in order of address
    first = reader._child
    assert read(reader, nfstream / "good") == flows
    assert reader._child is first


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("crash", "its process ended with code 1: its meter was ended by SIGSEGV"),
        ("fail", "its process ended with code 1: its meter failed with code 7"),
        ("vanish", "its process ended with code 3"),
        ("refuse", "no capture"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_capture_is_read(
    name: str, told: str, reader: NdpiReader, nfstream: Path
) -> None:
    with pytest.raises(InputError) as error:
        read(reader, nfstream / name)
    assert str(error.value) == f"{nfstream / name}: NFStream: {told}"
    assert len(read(reader, nfstream / "good")) == 600


def test_a_stop_ends_a_reading_in_which_nothing_comes(nfstream: Path) -> None:
    children: list[bool] = []

    def stop() -> bool:
        children.append(silent._child is not None and silent._child.poll() is None)
        return len(children) > 2

    with closing(NdpiReader(60, 60, 20, stop)) as silent:
        assert read(silent, nfstream / "silence") == []
        assert silent._child is None
    assert children == [True] * 3


def test_a_reader_that_is_left_has_ended_its_process(reader: NdpiReader, nfstream: Path) -> None:
    flows = reader.flows(str(nfstream / "good"))
    next(flows)
    child = reader._child
    assert child is not None and child.poll() is None
    assert isinstance(flows, Generator)
    flows.close()
    assert child.poll() is not None
