"""A folder of captures: files in order, whole or as they grow, each packet once over restarts, put away afterwards."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from producers.probe.source import Reading
from producers.probe.watch import LOOK_S, WatchOptions, WatchSource, _natural
from schemas.errors import SettingsError
from tests.producers.frames import Record, mixed_records, pcap

RECORDS = [record for record in mixed_records(400) if len(record.data) > 60][:90]


class Folder:
    """A folder, a source that watches it, and its clock."""

    def __init__(self, path: Path) -> None:
        self.path, self.now_s = path, 1000.0
        self.source = self.watch()

    def watch(self, **how: Any) -> WatchSource:
        """Watch, as a probe that has just been started does."""
        options = WatchOptions(self.path, self.path / ".state.json", quiet_s=10, **how)
        self.source = WatchSource(options, lambda: self.now_s, lambda: self.now_s)
        self.source.start(Reading(16))
        return self.source

    def write(self, name: str, content: bytes, at_s: float | None = None) -> Path:
        path = self.path / name
        path.write_bytes(content)
        at_s = self.now_s if at_s is None else at_s
        os.utime(path, (at_s, at_s))
        return path

    def take(self) -> list[tuple[str, int]]:
        """Let time pass as the loop does, until nothing comes; return (file, packets) in order."""
        out: list[tuple[str, int]] = []
        for _ in range(6):
            while (block := self.source.read()) is not None:
                packets = block.columns.packets - block.first
                if out and out[-1][0] == block.point:
                    packets += out.pop()[1]
                out.append((block.point, packets))
            self.source.tick()
            self.now_s += LOOK_S / 2
        return out


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def part(number: int) -> list[Record]:
    return RECORDS[30 * number : 30 * number + 30]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Usable packets in each part."""
    found = []
    for number in range(3):
        f = Folder(tmp_path_factory.mktemp("counts"))
        f.write("a.pcap", pcap(part(number)), at_s=0)
        ((_, packets),) = f.take()
        found.append(packets)
    assert min(found) > 3
    return found


def test_files_are_read_in_order_and_the_newest_once_it_is_quiet(folder: Folder, counts: list[int]) -> None:
    folder.write("cap_10.pcap", pcap(part(1)))
    folder.write("cap_9.pcap", pcap(part(0)))
    folder.write("notes.txt", b"hello")
    assert folder.take() == [("cap_9.pcap", counts[0])]
    assert folder.source.gauges() == {"files_waiting": 1}
    folder.now_s += 10
    assert folder.take() == [("cap_10.pcap", counts[1])]
    assert folder.take() == []
    assert folder.source.events() == {"files_read": 2}
    assert folder.source.frames()["read"] == 60


def test_the_newest_is_followed_as_it_grows(folder: Folder, counts: list[int]) -> None:
    folder.watch(follow=True)
    whole = pcap(part(0))
    folder.write("a.pcap", whole[:10])
    assert folder.take() == []
    folder.write("a.pcap", whole[: len(whole) // 2])
    ((_, first),) = folder.take()
    folder.write("a.pcap", whole)
    ((_, second),) = folder.take()
    assert first + second == counts[0]
    assert folder.source.events() == {}
    folder.write("b.pcap", pcap(part(1)))
    assert folder.take() == [("b.pcap", counts[1])]
    assert folder.source.events() == {"files_read": 1}


def test_nothing_is_read_twice_after_a_restart(folder: Folder, counts: list[int]) -> None:
    folder.watch(follow=True)
    whole = pcap(part(1))
    folder.write("a.pcap", pcap(part(0)))
    folder.write("b.pcap", whole[: len(whole) // 2])
    (_, (_, half)) = folder.take()
    folder.source.settled()
    folder.watch(follow=True)
    assert folder.take() == []
    folder.write("b.pcap", whole)
    assert folder.take() == [("b.pcap", counts[1] - half)]
    # What was read and did not reach the bus comes again.
    folder.watch(follow=True)
    assert folder.take() == [("b.pcap", counts[1] - half)]


def test_a_file_written_anew_is_another(folder: Folder, counts: list[int]) -> None:
    folder.write("a.pcap", pcap(part(0)), at_s=0)
    assert folder.take() == [("a.pcap", counts[0])]
    folder.source.settled()
    folder.write("a.pcap", pcap(part(2)), at_s=0)
    assert folder.take() == [("a.pcap", counts[2])]


def test_files_are_put_away_once_the_bus_has_them(folder: Folder, tmp_path: Path, counts: list[int]) -> None:
    done = tmp_path / "done"
    done.mkdir()
    for after, how in (("delete", {}), ("move", {"move_to": done})):
        folder.watch(after=after, **how)
        path = folder.write("a.pcap.gz", gzip.compress(pcap(part(0))), at_s=0)
        assert folder.take() == [("a.pcap.gz", counts[0])]
        assert path.exists()
        folder.source.settled()
        assert not path.exists()
        assert (done / "a.pcap.gz").exists() == (after == "move")
        folder.source.settled()
    assert json.loads((folder.path / ".state.json").read_text(encoding="utf-8")) == {"files": {}}
    folder.take()
    assert folder.source.events() == {"files_read": 1}


def test_bad_files_are_told_and_passed(
    folder: Folder, counts: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    folder.watch(after="delete")
    folder.write("a.pcap", b"no capture at all, really", at_s=0)
    folder.write("b.pcap", pcap(part(0))[:-5], at_s=0)
    folder.write("c.pcap", b"", at_s=0)
    folder.write("d.pcap.gz", gzip.compress(pcap(part(2)))[:-20], at_s=0)
    folder.write("e.pcap", pcap(part(1)), at_s=0)
    taken = folder.take()
    assert [name for name, _ in taken if name != "d.pcap.gz"] == ["b.pcap", "e.pcap"]
    assert taken[-1] == ("e.pcap", counts[1])
    assert folder.source.events()["files_refused"] == 1
    assert folder.source.events()["files_cut"] == 2
    assert f"{folder.path}/a.pcap: is neither a pcap nor a pcapng capture" in caplog.text
    assert "b.pcap: ends inside packet 30 at byte" in caplog.text
    folder.source.settled()
    assert (folder.path / "a.pcap").exists()  # it may be looked at
    assert folder.take() == []


def test_a_stopped_source_reads_no_further(folder: Folder) -> None:
    folder.write("a.pcap", pcap(RECORDS), at_s=0)
    assert folder.source.read() is not None
    folder.source.stop()
    assert folder.source.read() is None
    folder.source.settled()
    folder.source.close()
    before = folder.source.frames()["read"]
    folder.watch()
    assert sum(packets for _, packets in folder.take()) > 0
    assert before < len(RECORDS)


def test_a_state_that_cannot_be_written_is_told(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.write("a.pcap", pcap(part(0)), at_s=0)
    folder.take()
    (folder.path / ".state.json.part").mkdir()
    folder.source.settled()
    assert folder.source.events()["state_not_written"] == 1
    assert "cannot be written: Is a directory; after a restart files come again" in caplog.text


@pytest.mark.parametrize("content", ["{", '{"files": {"a": 1}}', "[]", '{"files": {"a": {"head": ""}}}'])
def test_a_state_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / ".state.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"state\.json: not what a probe remembers"):
        Folder(tmp_path)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"probe\.watch = .*nowhere: no such folder"):
        WatchSource(WatchOptions(tmp_path / "nowhere", tmp_path / "s"))


def test_numbers_in_names_count() -> None:
    names = ["f10.pcap", "f9.pcap", "10", "9", "f", "f9"]
    assert sorted(names, key=_natural) == ["f", "f9", "f9.pcap", "f10.pcap", "9", "10"]
