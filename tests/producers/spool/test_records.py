from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.spool.queue import DiskQueue
from producers.spool.records import HEADER_BYTES, VERSION, Record, encode_record, segment_header
from producers.spool.segments import Contents, Fault, Place, segment_path, sum_up, whole_records
from schemas.errors import InputError

RECORDS = st.lists(
    st.builds(
        Record,
        topic=st.sampled_from(("packets", "gate.packets", "labels")),
        value=st.binary(max_size=60),
        partition=st.one_of(st.none(), st.integers(0, 4095)),
        key=st.one_of(st.none(), st.text(max_size=5)),
        items=st.integers(0, 2048),
        time_ns=st.integers(0, 2**62),
    ),
    max_size=6,
)


def segment(records: list[Record], number: int = 7) -> tuple[bytes, list[int]]:
    """Return a segment file's bytes, and where each record ends."""
    raw, ends = segment_header(number), []
    for record in records:
        raw += encode_record(record, number, len(raw))
        ends.append(len(raw))
    return raw, ends


def written(folder: Path, raw: bytes, number: int = 7) -> Path:
    path = segment_path(folder, number)
    path.write_bytes(raw)
    return path


def recovered(path: Path, number: int = 7) -> tuple[list[Record], Fault | None]:
    end, contents, fault = sum_up(path, number)
    out: list[Record] = []
    for stop, record in _until(path, number, end):
        assert stop <= end
        out.append(record)
    assert contents.records == len(out)
    return out, fault


def _until(path: Path, number: int, end: int) -> list[tuple[int, Record]]:
    found = []
    if end > HEADER_BYTES:
        for stop, record in whole_records(path, number):
            found.append((stop, record))
            if stop == end:
                break
    return found


@given(RECORDS)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    raw, _ = segment(records)
    assert recovered(written(tmp_path_factory.mktemp("s"), raw)) == (records, None)


@settings(max_examples=200)
@given(RECORDS, st.data())
def test_a_file_cut_anywhere_gives_the_records_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], data: st.DataObject
) -> None:
    raw, ends = segment(records)
    cut = data.draw(st.integers(0, len(raw)))
    zeros = data.draw(st.sampled_from((0, 1, 100)))
    found, fault = recovered(written(tmp_path_factory.mktemp("s"), raw[:cut] + bytes(zeros)))
    whole = records[: sum(end <= cut for end in ends)]
    # Zeros behind the cut may complete a record that ended in zeros, no more.
    assert found == whole or (zeros and found == records[: len(whole) + 1])
    if not zeros and fault is not None:
        assert fault.is_cut and fault.offset + fault.lost_bytes == cut


@settings(max_examples=300)
@given(RECORDS.filter(bool), st.data())
def test_a_flipped_byte_never_gives_a_wrong_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], data: st.DataObject
) -> None:
    raw, ends = segment(records)
    at, flip = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    broken = bytearray(raw)
    broken[at] ^= flip
    found, fault = recovered(written(tmp_path_factory.mktemp("s"), bytes(broken)))
    assert found == ([] if at < HEADER_BYTES else records[: sum(end <= at for end in ends)])
    assert fault is not None


def test_a_record_in_another_place_is_none(tmp_path: Path) -> None:
    record = Record("packets", b"x" * 10, 1, None, 1, 5)
    raw = segment_header(7) + encode_record(record, 7, HEADER_BYTES) * 2
    assert recovered(written(tmp_path, raw))[0] == [record]
    assert recovered(written(tmp_path, segment_header(7) + encode_record(record, 6, HEADER_BYTES)))[0] == []


def test_a_segment_of_another_version_stops_the_start(tmp_path: Path) -> None:
    import struct
    from zlib import crc32

    head = bytearray(segment_header(1)[:-4])
    head[8] = VERSION + 1
    path = written(tmp_path, bytes(head) + struct.pack("<I", crc32(head)), 1)
    with pytest.raises(InputError, match=f"{path.name}.* version {VERSION + 1}"):
        DiskQueue(tmp_path, 1 << 20, lambda fault, lost: None)
    path.unlink()
    DiskQueue(tmp_path, 1 << 20, lambda fault, lost: None).close()  # the lock was given back


def test_a_power_cut_costs_no_more_than_what_was_not_synced(tmp_path: Path) -> None:
    """Whatever of the bytes after the last sync reached the disk."""
    queue = DiskQueue(tmp_path / "q", 1 << 20, lambda fault, lost: None)
    records = [Record("packets", bytes([n]) * 50, 0, None, 1, n) for n in range(9)]
    for record in records[:6]:
        queue.append(record)
    queue.sync()
    synced = queue.synced
    for record in records[6:]:
        queue.append(record)
    raw = segment_path(tmp_path / "q", synced.number).read_bytes()
    queue.close()
    for cut in range(synced.offset, len(raw) + 1):
        segment_path(tmp_path / "q", synced.number).write_bytes(raw[:cut])
        again = DiskQueue(tmp_path / "q", 1 << 20, lambda fault, lost: None)
        found = []
        while (one := again.read()) is not None:
            found.append(one[1])
        again.close()
        assert found == records[: len(found)] and len(found) >= 6


def test_places_are_given_up_in_order_and_segments_deleted(tmp_path: Path) -> None:
    faults: list[tuple[Fault, Contents]] = []
    queue = DiskQueue(tmp_path, 200, lambda fault, lost: faults.append((fault, lost)))
    places = [queue.append(Record("packets", bytes(100), 0, None, 1, n)) for n in range(6)]
    assert places == sorted(places) and len(queue.sizes) > 2
    read = []
    while (found := queue.read()) is not None:
        read.append(found[0])
    assert read == places and queue.is_read
    queue.acknowledge(places[3])
    assert min(queue.sizes) == places[3].number
    again = queue.read_again(places[4])
    assert again is not None and again.time_ns == 4 and queue.read_again(places[0]) is None
    queue.acknowledge(queue.next)
    assert queue.bytes == 0 and not list(tmp_path.glob("*.spool"))
    queue.append(Record("packets", b"new", 0, None, 1, 9))
    found = queue.read()
    assert found is not None and found[1].value == b"new" and found[0] > Place(places[-1].number, 0)
    queue.close()
    assert not faults
