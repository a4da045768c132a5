"""Real captures through the whole core: every packet read is accounted for, every accepted one is in a record."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import InputError, SettingsError
from schemas.features import FeatureBatch
from schemas.flow_key import partition_of
from streams.config import RepresentationSettings, StreamsSettings
from streams.offline import OfflineSummary, run_offline
from tests.golden.captures import CAPTURES
from tests.streams.made import Row, brisk, rows_of


def keep(
    *paths: Path, settings: StreamsSettings | None = None, partitions: int = 4
) -> tuple[OfflineSummary, list[FeatureBatch]]:
    batches: list[FeatureBatch] = []
    summary = run_offline(
        [str(path) for path in paths],
        settings or StreamsSettings(),
        partitions=partitions,
        probe="p",
        on_batch=batches.append,
    )
    return summary, batches


def sums(batches: list[FeatureBatch]) -> Counter[str]:
    """Return packets by representation, and octets of the flows."""
    total: Counter[str] = Counter()
    for b in batches:
        c = b.columns
        total[b.representation] += int(
            c["packets_fwd"].sum(dtype=np.int64) + c["packets_rev"].sum(dtype=np.int64)
        )
        total[f"{b.representation}_octets"] += int(c["octets_fwd"].sum() + c["octets_rev"].sum())
    return total


def check(summary: OfflineSummary, batches: list[FeatureBatch]) -> None:
    total = sums(batches)
    assert summary.accepted + sum(summary.skipped.values()) == summary.read
    assert total["flow"] == total["window"] == summary.accepted
    assert total["flow_octets"] == total["window_octets"]
    for b in batches:
        c = b.columns
        assert (c["start_ns"] <= c["end_ns"]).all()
        assert np.isfinite(c["features"]).all()
        assert (
            (c["flow_end_reason"] > 0) == (b.representation == "flow")
        ).all() or b.representation == "window"
        assert [partition_of(i, 4) for i in c["flow_id"]] == [b.partition] * b.rows
    flows = sum(b.rows for b in batches if b.representation == "flow")
    assert summary.flows == summary.counters["flows_opened"] == flows
    assert summary.rows == {
        r: sum(b.rows for b in batches if b.representation == r) for r in {b.representation for b in batches}
    }


def listed(shared_data: Path, kind: str) -> list[dict[str, str]]:
    with (shared_data / kind / "captures.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["app", "attack"])
def test_every_packet_of_a_real_capture_is_in_one_record(shared_data: Path, kind: str) -> None:
    for row in listed(shared_data, kind)[::4]:
        path = shared_data / kind / row["capture"]
        if not path.is_file():
            continue
        summary, batches = keep(path)
        assert summary.read == int(row["packets"]), path.name
        check(summary, batches)


def test_the_demo_capture_adds_up(demo_capture: Path) -> None:
    summary, batches = keep(demo_capture)
    check(summary, batches)
    assert summary.accepted > 10_000


def made(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.pcap"
    path.write_bytes(CAPTURES[name]())
    return path


def sorted_rows(batches: list[FeatureBatch]) -> list[Row]:
    return sorted(rows_of(batches))


def test_several_captures_are_one_stream(tmp_path: Path) -> None:
    paths = [made(tmp_path, name) for name in ("tcp_lives", "mixed", "disorder")]
    summary, batches = keep(*paths)
    check(summary, batches)
    assert summary.read == sum(keep(path)[0].read for path in paths)


def test_the_same_packets_packed_otherwise_give_the_same_rows(tmp_path: Path) -> None:
    plain = made(tmp_path, "tcp_lives")
    packed = tmp_path / "packed.pcap.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert sorted_rows(keep(packed)[1]) == sorted_rows(keep(plain)[1])


def test_progress_is_told_up_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    run_offline(
        [str(made(tmp_path, "mixed"))],
        brisk(),
        partitions=1,
        probe="p",
        on_batch=lambda batch: None,
        on_progress=lambda packets, share: told.append((packets, share)),
    )
    assert told[-1][0] == 16
    assert all(0 <= share <= 1 for _, share in told)
    assert told[-1][1] == pytest.approx(1.0)


def test_the_summary_is_what_json_prints(tmp_path: Path) -> None:
    told = keep(made(tmp_path, "mixed"))[0].as_dict()
    skipped = {"not_ip": 1, "truncated_ip": 1}
    assert told["packets"] == {"read": 16, "accepted": 14, "skipped": skipped, "left_out": 0}
    assert told["flows"] == 8
    assert told["rows"] == {"early": 8, "window": 8, "flow": 8}


def test_what_is_no_capture_and_what_is_no_feature_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pcap"):
        keep(tmp_path / "absent.pcap")
    wrong = RepresentationSettings(name="flow", kind="flow", features=("none",))
    with pytest.raises(SettingsError, match="'none'"):
        keep(made(tmp_path, "mixed"), settings=brisk(representations=(wrong,)))
