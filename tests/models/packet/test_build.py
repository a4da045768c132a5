"""Data sets of packets: what is chosen, how it is split, and what is told of bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowgauge.labelling import our_flows
from models.packet.build import BuildOptions, Source, build
from models.packet.choose import Candidate, ClassRules, choose_classes, quotas
from models.packet.dataset import SHARES, TEST, TRAIN, UNUSED, VALIDATION, PacketDataset
from models.packet.splits import smallest_part, split_groups, split_rows
from schemas.errors import InputError, SettingsError
from streams.config import StreamsSettings
from tests.producers.frames import Record, ethernet, ip4, pcap, udp

START_NS = 1_700_000_000_000_000_000


def source(folder: Path, number: int, flows: int = 6, packets: int = 20) -> Source:
    """Return a capture whose flow of port 1000 + f is of class f % 2; packet i holds its class, capture and i."""
    records = [
        Record(
            ethernet(
                ip4(udp(1000 + f, 53, bytes(12) + bytes([f % 2 + 1, number + 1, f + 1, i + 1])), protocol=17)
            ),
            START_NS + (i * flows + f) * 1_000_000,
        )
        for i in range(packets)
        for f in range(flows)
    ]
    path = folder / f"{number}.pcap"
    path.write_bytes(pcap(records, nanoseconds=True))
    found, _ = our_flows([str(path)], StreamsSettings(), 8, "offline")
    told = sorted((flow.flow_id, (max(flow.source_port, flow.destination_port) - 1000) % 2) for flow in found)
    ids, kinds = zip(*told, strict=True)
    return Source(
        str(path), path.name, "0" * 64, f"g{number}", np.array(ids, np.uint64), np.array(kinds, np.int64)
    )


def test_rows_are_the_packets_of_the_labelled_flows_and_splits_keep_groups_together(tmp_path: Path) -> None:
    sources = [source(tmp_path, i) for i in range(6)]
    for folder in ("one", "two"):
        built = build(tmp_path / folder, sources, ("even", "odd"), BuildOptions(per_class=200))
        assert built.notes == []
    data = PacketDataset.open(tmp_path / "one")
    assert data.class_names == ("even", "odd")
    assert data.rows == 400
    assert np.array_equal(data.vectors[:, 20], data.classes + 1)
    assert np.array_equal(data.vectors[:, 21], data.capture + 1)
    assert np.array_equal(data.vectors[:, 23], data.packet_number)
    assert not data.vectors[:, :20].any()
    assert not data.vectors[:, 24:].any()
    # 18 flows of 20 packets share 200: eleven each, and two have one more.
    assert set(np.bincount(data.flow).tolist()) == {11, 12}
    for groups, split in ((data.flow, data.split_flow), (data.capture, data.split_capture)):
        assert all(len(np.unique(split[groups == g])) == 1 for g in np.unique(groups))
        assert {TRAIN, VALIDATION, TEST} == set(split.tolist())
    assert np.bincount(data.split_random[data.classes == 0]).tolist() == [128, 32, 40]
    again = PacketDataset.open(tmp_path / "two")
    assert np.array_equal(data.vectors, again.vectors)
    assert np.array_equal(data.split_capture, again.split_capture)


def test_the_largest_classes_are_those_with_most_of_what_is_asked() -> None:
    numbers = {"a": (9, 1, 1, 1), "b": (7, 2, 2, 2), "c": (5, 8, 3, 2), "d": (6, 3, 4, 4)}
    found = [Candidate(name, i, *each, each[0], 1, 1, 1) for i, (name, each) in enumerate(numbers.items())]

    def names(**rules: object) -> list[str]:
        return [each.name for each in choose_classes(found, ClassRules(top=2, **rules))[0]]  # type: ignore[arg-type]

    assert names() == ["c", "d"]
    assert names(top_by="flows") == ["c", "d"]
    assert names(top_by="packets") == ["a", "b"]
    assert names(top_by="packets", min_groups=2) == ["b", "d"]
    with pytest.raises(SettingsError, match="most luck: there is groups, flows, packets"):
        names(top_by="luck")


def test_one_class_and_labels_that_fit_nothing_are_one_line(tmp_path: Path) -> None:
    one = source(tmp_path, 0)
    with pytest.raises(InputError, match="needs two classes, and there is only even"):
        build(tmp_path / "out", [one], ("even", "odd"), BuildOptions(rules=ClassRules(names=("even",))))
    with pytest.raises(
        InputError, match="class dns: no packet of the captures has that label; there is even, odd"
    ):
        build(tmp_path / "out", [one], ("even", "odd"), BuildOptions(rules=ClassRules(names=("dns",))))
    nothing = Source(one.path, one.name, one.sha256, one.group, np.empty(0, np.uint64), np.empty(0, np.int64))
    with pytest.raises(InputError, match="no label fits a flow"):
        build(tmp_path / "out", [nothing], (), BuildOptions())
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds something else than a data set"):
        build(tmp_path / "mine", [one], ("even", "odd"), BuildOptions())


def test_quotas_level_the_flows() -> None:
    assert quotas(np.array([1000, 3, 10]), 25).tolist() == [12, 3, 10]
    assert quotas(np.array([5, 5, 5]), 7).tolist() == [3, 2, 2]
    assert quotas(np.array([5, 5]), 10).tolist() == [5, 5]
    assert quotas(np.array([1000, 3, 10]), 25, 8).tolist() == [8, 3, 8]
    assert quotas(np.array([1000, 3, 10]), 14, 8).tolist() == [6, 3, 5]


def test_what_an_elephant_leaves_is_shared_by_the_other_parts() -> None:
    """The sizes are those of real classes: no part is empty, and validation and test get 16 to 20 of the rest."""
    sizes = {
        (5555, 57, 25, 20, 20, 16): (5555, 61, 77),
        (1071, 37, 22, 12): (1071, 34, 37),
        (3730, 2, 2, 2, 2): (3730, 4, 4),
        (1224, 284, 34, 24, 12, 12): (1224, 82, 284),
        (954, 22, 16, 10, 7, 5, 4, 4, 2): (954, 31, 39),
        (100, 7): (100, 0, 7),
        (10, 10, 10, 10, 10, 10, 10, 10, 10, 10): (60, 20, 20),
    }
    for groups, wanted in sizes.items():
        number = np.repeat(np.arange(len(groups)), groups)
        parts = split_groups(np.zeros(len(number), np.int32), number, 1, 2)
        found = np.bincount(parts, minlength=3)
        assert found.tolist() == list(wanted), groups
        assert smallest_part(np.array(groups)) == min(wanted)


def test_groups_of_two_classes_are_split_for_both() -> None:
    """Each of 30 captures holds two of five classes, of very different size; none is cut, and each part has all."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 2)
    kinds = np.concatenate([rng.choice(5, 2, replace=False) for _ in range(30)])
    sizes = (10 ** rng.uniform(0.5, 3, 60)).astype(np.int64)
    classes, group = np.repeat(kinds, sizes).astype(np.int32), np.repeat(groups, sizes)
    parts = split_groups(classes, group, 1, 2)
    assert np.array_equal(parts, split_groups(classes, group, 1, 2))
    assert all(len(np.unique(parts[group == g])) == 1 for g in range(30))
    for kind in range(5):
        shares = np.bincount(parts[classes == kind], minlength=3) / np.count_nonzero(classes == kind)
        assert np.allclose(shares, SHARES, atol=0.12), kind


def test_small_classes_are_split_as_far_as_they_go() -> None:
    assert sorted(split_rows(np.zeros(3, np.int32), 1).tolist()) == [TRAIN, VALIDATION, TEST]
    assert sorted(split_rows(np.zeros(2, np.int32), 1).tolist()) == [TRAIN, TEST]
    alone = split_groups(np.array([0, 0, 1, 1], np.int32), np.array([0, 0, 1, 2]), 1, 2)
    assert alone[:2].tolist() == [UNUSED, UNUSED]
    assert sorted(alone[2:].tolist()) == [TRAIN, TEST]
