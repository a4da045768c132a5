"""``flowgauge privacy`` and ``flowgauge spool`` as a user meets them, and what their benches are made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flowgauge.bench.stages.anonymise import _capture
from flowgauge.bench.stages.spool import FLOWS, _in_order, _packets
from flowgauge.cli import invoke
from producers.privacy.config import PrivacySettings
from producers.privacy.keys import VARIABLE, Key
from producers.privacy.privacy import Privacy
from producers.sources.capture import open_capture
from producers.spool.queue import DiskQueue
from producers.spool.records import Record
from schemas.errors import InputError, SettingsError


def test_a_key_is_made_and_used_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    key = tmp_path / "gate.key"
    assert not invoke(["privacy", "key", str(key)])
    assert key.read_text().strip() not in capsys.readouterr().out
    use = ["--set", f"privacy.key_file={key}", "--json"]
    assert not invoke(["privacy", "map", "192.0.2.1", "2001:db8::/32", "www.example.org", *use])
    found = json.loads(capsys.readouterr().out)
    assert found["2001:db8::/32"].endswith("/32") and "example" not in found["www.example.org"]
    assert not invoke(["privacy", "map", "--back", found["192.0.2.1"], found["2001:db8::/32"], *use])
    assert list(json.loads(capsys.readouterr().out).values()) == ["192.0.2.1", "2001:db8::/32"]
    with pytest.raises(SettingsError, match="no way leads back"):
        invoke(["privacy", "map", "--back", "www.example.org", *use])
    with pytest.raises(SettingsError, match="no key"):
        invoke(["privacy", "map", "192.0.2.1"])
    with pytest.raises(InputError, match="is there already"):
        invoke(["privacy", "key", str(key)])


def test_a_spool_is_shown_and_damage_in_it_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queue = DiskQueue(tmp_path, 300, lambda fault, lost: None)
    for number in range(6):
        queue.append(Record("packets", bytes(100), number % 2, None, 10, 1))
    assert not invoke(["spool", "show", str(tmp_path), "--json"])  # while it is in use
    found = json.loads(capsys.readouterr().out)
    assert (found["messages"], found["packets"]) == (6, 60) and found["oldest_age_s"] > 0
    assert sum(row["packets_by_partition"].get("1", 0) for row in found["segments"]) == 30
    queue.close()
    first = min(tmp_path.glob("*.spool"))
    raw = bytearray(first.read_bytes())
    raw[-1] ^= 1
    first.write_bytes(raw)
    assert invoke(["spool", "show", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "5 messages with 50 packets" in said.out and f"{first}: holds a record" in said.err
    with pytest.raises(InputError, match="No such file"):
        invoke(["spool", "show", str(tmp_path / "none")])


@pytest.mark.parametrize("version", [4, 6])
def test_the_worst_case_of_the_bench_is_all_new_addresses(tmp_path: Path, version: int) -> None:
    path = tmp_path / "new.pcap"
    path.write_bytes(_capture(version, 500))
    privacy = Privacy(PrivacySettings(anonymise=True), Key(bytes(32)))
    with open_capture(str(path), privacy=privacy) as capture:
        assert sum(block.packets for block in capture.blocks()) == 500
        assert capture.counters.skipped == {}
    assert privacy.computed == 1000


def test_the_bench_knows_order_from_disorder() -> None:
    blocks = _packets(100, 1000)
    first, second = next(blocks).time_ns.copy(), next(blocks).time_ns.copy()
    assert (np.diff(np.concatenate((first, second))) == 1_000_000).all()
    flows, times = np.array([1, 2, 1, 2]), np.array([1, 2, 3, 4])
    newest = np.zeros(FLOWS, np.int64)
    assert _in_order(flows, times, newest) and newest[1:3].tolist() == [3, 4]
    assert not _in_order(flows, times, newest), "the same again is older than the newest"
    assert not _in_order(np.array([5, 5]), np.array([2, 1]), newest)
