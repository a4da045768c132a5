"""``flowgauge dataset`` as a user runs it: labels of three kinds, and one line for what cannot be."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowgauge import outcome
from flowgauge.cli import invoke
from flowgauge.dataset_labels import groups_beside, read_groups
from flowgauge.progress import Update
from models.packet.dataset import TEST, PacketDataset
from producers.labels import COLUMNS
from schemas.errors import InputError
from tests.producers.frames import Record, ethernet, ip4, pcap, udp

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
TABLE = "capture,proto,ip_a,port_a,ip_b,port_b,first_seen,last_seen,app,dpi_grade,unique"


def capture(path: Path, flows: int = 4, packets: int = 10) -> Path:
    """Write a capture of UDP flows 10.0.0.1:(1000 + f) to 10.0.0.2:53, one packet of each every 4 ms."""
    records = []
    for i in range(packets):
        for f in range(flows):
            body = bytes(12) + bytes([f + 1, i % 255 + 1])
            records.append(Record(ethernet(ip4(udp(1000 + f, 53, body), protocol=17)), START_NS + i * 4 * MS))
    path.write_bytes(pcap(records, nanoseconds=True))
    return path


def labels(path: Path, names: Sequence[str], host: str = "10.0.0.2") -> Path:
    """Write a labels file: flow f is of class ``names[f]``."""
    rows = [
        f"10.0.0.1,{host},{1000 + f},53,17,{START_NS},{START_NS + 36 * MS},{name}"
        for f, name in enumerate(names)
    ]
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    return path


def dataset(captures: Sequence[Path], *more: str | Path, code: int = 0) -> None:
    assert outcome.run(lambda: invoke(["dataset", *map(str, captures), *map(str, more)])) == code


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """Return what is told of an error: one line, after nothing but progress."""
    told = capfd.readouterr()
    assert told.out == ""
    lines = [line for line in told.err.splitlines() if " packets read" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_labels_file_makes_a_data_set_that_opens(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    taken = capture(tmp_path / "a.pcap")
    table = labels(tmp_path / "l.csv", ["dns", "web", "dns", "web"])
    dataset([taken], "--labels", table, "-o", tmp_path / "out", "--per-flow", "6", "--json")
    told: dict[str, Any] = json.loads(capfd.readouterr().out)
    data = PacketDataset.open(tmp_path / "out")
    assert data.class_names == ("dns", "web")
    assert data.rows == told["rows"] == 24
    assert np.bincount(data.flow).tolist() == [6] * 4
    # Octet 20 tells the flow, and so the class.
    assert np.array_equal((data.vectors[:, 20] - 1) % 2, data.classes)
    assert told["per_flow"] == 6
    assert told["counts"]["dns"]["largest_flow"] == 6
    assert told["counts"]["dns"]["packets_found"] == 20
    assert told["counts"]["dns"]["largest_group"] == 12
    assert told["notes"] == data.manifest["notes"]
    assert "class dns is unused in the capture split: all of it is of one capture" in told["notes"]
    assert told["labels"]["from"] == "l.csv"


def test_a_second_data_set_takes_the_place_of_the_first_and_of_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    taken = capture(tmp_path / "a.pcap")
    table = labels(tmp_path / "l.csv", ["dns", "web", "dns", "web"])
    for most in (4, 5):
        dataset([taken], "--labels", table, "-o", tmp_path / "out", "--per-flow", str(most))
        assert PacketDataset.open(tmp_path / "out").rows == 4 * most
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    capfd.readouterr()
    dataset([taken], "--labels", table, "-o", tmp_path / "mine", code=3)
    assert one_line(capfd).endswith("mine: holds something else than a data set; give another folder")
    (tmp_path / "file").write_text("work too")
    dataset([taken], "--labels", table, "-o", tmp_path / "file", code=3)
    assert one_line(capfd).endswith("file: is a file; give a folder")
    assert (tmp_path / "file").read_text() == "work too"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pcap", "file", "l.csv", "mine", "out"]


@pytest.mark.parametrize(
    ("names", "more", "told"),
    [
        (["dns"] * 4, (), "a data set needs two classes, and there is only dns"),
        (["dns", "web"] * 2, ("--class", "dns", "--class", "ssh"), "class ssh: no packet of the captures has that"),
        (["dns", "web"] * 2, ("--min-packets", "21"), "needs two classes, and there is none"),
        (["dns", "web"] * 2, ("--min-part", "11"), "0 packets for a part without dividing flows and captures, not"),
        (["dns", "dns", "dns", "web"], ("--min-flows", "2"), "1 flows, not 2"),
    ],
)  # fmt: skip
def test_classes_that_are_too_few_or_too_small_are_one_line(
    names: list[str], more: tuple[str, ...], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = labels(tmp_path / "l.csv", names)
    dataset([capture(tmp_path / "a.pcap")], "--labels", table, "-o", tmp_path / "out", *more, code=3)
    line = one_line(capfd)
    assert line.startswith("flowgauge: error: ")
    assert told in line
    assert not (tmp_path / "out").exists()


def test_labels_that_fit_nothing_or_cannot_be_read_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    taken, out = capture(tmp_path / "a.pcap"), tmp_path / "out"
    dataset([taken], "--labels", labels(tmp_path / "l.csv", ["dns", "web"], "10.9.9.9"), "-o", out, code=3)
    assert "no label fits a flow of the captures" in one_line(capfd)
    dataset([taken], "--labels", tmp_path / "none.csv", "-o", out, code=3)
    assert one_line(capfd).endswith("none.csv: No such file or directory")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\0")
    dataset([taken], "--labels", tmp_path / "binary.csv", "-o", out, code=3)
    assert one_line(capfd).endswith("binary.csv: is not UTF-8 text, so not a labels file")
    (tmp_path / "empty.csv").write_text("")
    dataset([taken], "--labels", tmp_path / "empty.csv", "-o", out, code=3)
    assert "empty.csv" in one_line(capfd)
    (tmp_path / "table.csv").write_text(f"{TABLE}\na.pcap,udp,10.0.0.300,1,10.0.0.2,2,1,2,dns,1,1\n")
    dataset([taken], "--labels", tmp_path / "table.csv", "-o", out, code=3)
    assert "table.csv: line 2: " in one_line(capfd)
    assert not out.exists()


def test_a_capture_that_cannot_be_read_is_left_out_and_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good, table = capture(tmp_path / "a.pcap"), labels(tmp_path / "l.csv", ["dns", "web", "dns", "web"])
    (tmp_path / "text.pcap").write_text("no capture at all, whatever it is called")
    gone = tmp_path / "gone.pcap"
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(good.read_bytes()[:-5])
    zipped = tmp_path / "zipped.pcap.gz"
    zipped.write_bytes(gzip.compress(good.read_bytes())[:-20])
    told = ("--labels", table, "-o", tmp_path / "out", "--json")
    dataset([good, cut, tmp_path / "text.pcap", gone], *told)
    found = json.loads(capfd.readouterr().out)
    assert found["labels"]["counts"]["captures_unreadable"] == 2
    assert found["captures"] == 2
    # The packet that the end of the file cuts is not there; all others are.
    assert found["rows"] == 40 + 39
    warnings = " ".join(found["warnings"])
    assert "text.pcap" in warnings
    assert "gone.pcap" in warnings
    assert "cut.pcap" in warnings
    dataset([tmp_path / "text.pcap", gone], *told, code=3)
    assert "text.pcap" in one_line(capfd)
    dataset([zipped], *told[:-1])
    assert "zipped.pcap.gz" in capfd.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    taken = capture(tmp_path / "a.pcap")
    table = labels(tmp_path / "l.csv", ["dns", "web", "dns", "web"])

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    dataset([taken], "--labels", table, "-o", tmp_path / "out", code=3)
    assert one_line(capfd).endswith("out: cannot be written: No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pcap", "l.csv"]


def test_standard_input_and_captures_of_one_name_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = labels(tmp_path / "l.csv", ["dns"])
    dataset([Path("-")], "--labels", table, "-o", tmp_path / "out", code=2)
    assert "standard input cannot be read twice" in capfd.readouterr().err
    (tmp_path / "b").mkdir()
    twice = [capture(tmp_path / "a.pcap"), capture(tmp_path / "b" / "a.pcap")]
    dataset(twice, "--labels", table, "-o", tmp_path / "out", code=2)
    assert "two captures are named a.pcap" in capfd.readouterr().err


def told_flow(name: str, f: int, app: str, grade: int = 1, unique: int = 1) -> str:
    first = START_NS / 1e9
    return (
        f"{name},udp,10.0.0.1,{1000 + f},10.0.0.2,53,{first:.6f},{first + 0.036:.6f},{app},{grade},{unique}"
    )


def test_a_table_of_captures_labels_by_name_and_grade_and_groups_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    captures = [capture(tmp_path / f"{name}.pcap") for name in "abcd"]
    rows = [told_flow(p.name, f, ("dns", "web")[f % 2], int(f < 3)) for p in captures for f in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join([TABLE, *rows]) + "\n")
    # a and b share a group, b and c a unit: so these three are one.
    (tmp_path / "captures.csv").write_text(
        "capture,overlap_group,split_unit\na.pcap,g1,1\nb.pcap,g1,2\nc.pcap,g2,2\nd.pcap,g3,3\n"
    )
    beside = groups_beside(str(tmp_path / "labels.csv"))
    assert beside is not None
    assert groups_beside("nDPI") is None
    grouped = read_groups(beside)
    assert grouped["a.pcap"] == grouped["b.pcap"] == grouped["c.pcap"] != grouped["d.pcap"]
    dataset(captures, "--labels", tmp_path / "labels.csv", "-o", tmp_path / "out", "--json")
    told = json.loads(capfd.readouterr().out)
    assert told["labels"]["counts"]["guessed"] == 4
    # Flow 3 of each capture has no good grade: so web has one flow of ten packets a capture.
    assert told["counts"]["web"]["packets"] == 40
    assert told["counts"]["dns"]["groups"] == told["counts"]["web"]["groups"] == 2
    data = PacketDataset.open(tmp_path / "out")
    assert set(data.capture[data.split_capture == TEST].tolist()) in ({3}, {0, 1, 2})


def test_groups_without_their_columns_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("capture,other\na.pcap,1\n")
    with pytest.raises(InputError, match=r"g\.csv: no column overlap_group or split_unit"):
        read_groups(tmp_path / "g.csv")
    (tmp_path / "h.csv").write_text("name\na.pcap\n")
    with pytest.raises(InputError, match=r"h\.csv: line 1: no column capture"):
        read_groups(tmp_path / "h.csv")


def test_ndpi_labels_the_demo_capture(
    demo_capture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nfstream")
    most = ("--per-class", "200", "--per-flow", "20")
    dataset([demo_capture], "--labels", "nDPI", "-o", tmp_path / "out", *most, "--json")
    told = json.loads(capfd.readouterr().out)
    assert told["labels"]["from"].startswith("nDPI ")
    counts = told["labels"]["counts"]
    assert counts["flows"] == sum(
        counts[n] for n in ("labelled", "unknown", "guessed", "ambiguous", "unmatched")
    )
    assert counts["labelled"] > 300
    assert {"DNS", "HTTP", "SSH", "QUIC"} & set(told["classes"]) >= {"DNS", "HTTP"}
    assert PacketDataset.open(tmp_path / "out").rows == told["rows"]
    assert all(count["packets"] <= 200 and count["largest_flow"] <= 20 for count in told["counts"].values())


@pytest.mark.parametrize(
    ("how", "share", "code"),
    [(signal.SIGINT, 0.0, 130), (signal.SIGTERM, 0.5, 143), (signal.SIGINT, 0.99, 130)],
    ids=["while it labels", "while it counts", "while it writes"],
)
def test_a_stop_leaves_the_data_set_that_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    how: signal.Signals,
    share: float,
    code: int,
) -> None:
    """Nothing half-written is left, and what the data set would have replaced is whole."""
    captures = [capture(tmp_path / f"{i}.pcap") for i in range(3)]
    names = labels(tmp_path / "l.csv", ["mail", "web", "mail", "web"])
    dataset(captures, "--labels", names, "-o", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    sent: list[float | None] = []

    @contextmanager
    def kill(_verb: str) -> Iterator[Update]:
        def update(_packets: int, done: float | None) -> None:
            if (done or 0.0) >= share and not sent:
                sent.append(done)
                os.kill(os.getpid(), how)

        yield update

    monkeypatch.setattr("flowgauge.dataset_run.progress", kill)
    capfd.readouterr()
    dataset(captures, "--labels", names, "-o", tmp_path / "out", "--seed", "2", code=code)
    assert sent and "Traceback" not in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not list(tmp_path.glob(".out*"))
