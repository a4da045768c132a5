from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from producers.labels import COLUMNS, read_labels
from schemas.community_id import address_bytes
from schemas.errors import InputError
from schemas.flow_key import flow_id_of, hash_five_tuple, probe_hash_of

HEADER = ",".join(COLUMNS)


def write(tmp_path: Path, *lines: str, header: str = HEADER) -> str:
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def five_tuple_hash(a: str, b: str, port_a: int, port_b: int, protocol: int) -> np.uint64:
    first, second = (np.frombuffer(address_bytes(text)[0], dtype=np.uint8) for text in (a, b))
    return np.uint64(hash_five_tuple(first, second, port_a, port_b, protocol, address_bytes(a)[1]))


def test_both_directions_give_the_id_of_the_canonical_flow(tmp_path: Path) -> None:
    table = read_labels(
        write(
            tmp_path,
            "10.0.0.9,10.0.0.2,443,50000,6,100,200,web",
            "10.0.0.2,10.0.0.9,50000,443,6,100,150,web",
            "2001:db8::1,2001:db8::2,5,6,17,7,300,dns",
        )
    )
    assert table.label == ("web", "web", "dns")
    assert table.end_ns.tolist() == [150, 200, 300]
    web = five_tuple_hash("10.0.0.2", "10.0.0.9", 50000, 443, 6)
    dns = five_tuple_hash("2001:db8::1", "2001:db8::2", 5, 6, 17)
    assert table.flow_hash.tolist() == [web, web, dns]
    expected = [flow_id_of(h, probe_hash_of("gate"), t + 1000) for h, t in ((web, 100), (web, 100), (dns, 7))]
    assert table.flow_ids("gate", 1000).tolist() == expected


def test_icmp_follows_community_id_a_one_way_type_keeps_its_order(tmp_path: Path) -> None:
    table = read_labels(
        write(tmp_path, "10.0.0.9,10.0.0.2,8,0,1,1,2,ping", "10.0.0.9,10.0.0.2,3,1,1,1,3,unreachable")
    )
    assert table.flow_hash.tolist() == [
        five_tuple_hash("10.0.0.2", "10.0.0.9", 0, 8, 1),
        five_tuple_hash("10.0.0.9", "10.0.0.2", 3, 1, 1),
    ]


def test_an_empty_file_of_labels_has_no_rows_and_other_columns_do_not_matter(tmp_path: Path) -> None:
    assert read_labels(write(tmp_path)).rows == 0
    table = read_labels(write(tmp_path, "x,::1,::2,1,2,6,1,2,a", header="note," + HEADER))
    assert table.flow_ids("p").shape == (1,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("10.0.0.1,10.0.0.2,1,2,6,1,2", "no label"),
        ("10.0.0.1,10.0.0.2,1,2,tcp,1,2,a", "protocol 'tcp' is not a whole number"),
        ("10.0.0.1,10.0.0.2,70000,2,6,1,2,a", "source_port '70000'"),
        ("10.0.0.1,10.0.0.2,1,2,6,5,2,a", "end_ns is before start_ns"),
        ("10.0.0.1,::2,1,2,6,1,2,a", "one address is IPv4"),
        ("10.0.0.300,10.0.0.2,1,2,6,1,2,a", "10.0.0.300"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: str, reason: str) -> None:
    path = write(tmp_path, "10.0.0.1,10.0.0.2,1,2,6,1,2,a", row)
    with pytest.raises(InputError) as error:
        read_labels(path)
    assert str(error.value).startswith(f"{path}: line 3: ")
    assert reason in str(error.value)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"truth\.csv: line 1: no column protocol"):
        read_labels(write(tmp_path, header=HEADER.replace("protocol,", "")))
    with pytest.raises(InputError, match=r"absent\.csv: No such file"):
        read_labels(str(tmp_path / "absent.csv"))
    with pytest.raises(InputError, match=r"line 1: no column"):
        read_labels(write(tmp_path, header=""))
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(InputError, match=r"binary\.csv: is not UTF-8"):
        read_labels(str(binary))
