"""Capture files: byte orders, clocks, sections and interfaces, streams, and files that end badly."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from producers.decoder.reasons import DecodeCounters
from producers.sources.capture import open_capture
from schemas.errors import InputError
from tests.producers.frames import (
    UDP,
    Decoded,
    Record,
    block,
    decode_file,
    enhanced,
    ethernet,
    interface,
    ip4,
    mixed_records,
    option,
    pcap,
    pcapng,
    section,
    udp,
)

RECORDS = mixed_records(600)
PACKET = ip4(udp(1, 2, b"x" * 30), UDP)
RECORD = Record(ethernet(PACKET))


def write(tmp_path: Path, content: bytes, name: str = "file.pcap") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def decode(tmp_path: Path, content: bytes, **how: Any) -> Decoded:
    return decode_file(write(tmp_path, content), **how)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    decoded = decode(tmp_path_factory.mktemp("expected"), pcap(RECORDS))
    assert decoded.counters == DecodeCounters(600, 500, {"not_ip": 100})
    return decoded


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_in_both_byte_orders_and_resolutions(
    tmp_path: Path, expected: Decoded, order: str, nanoseconds: bool
) -> None:
    assert decode(tmp_path, pcap(RECORDS, order=order, nanoseconds=nanoseconds)) == expected


def test_nanoseconds_are_kept(tmp_path: Path) -> None:
    record = Record(RECORD.data, 4_294_967_295_999_999_999)
    assert decode(tmp_path, pcap([record], nanoseconds=True)).row["time_ns"] == record.time_ns


def test_records_of_patched_libpcap(tmp_path: Path) -> None:
    head = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    size = len(RECORD.data)
    record = struct.pack("<IIIIIHBB", 7, 8, size, size, 2, 0x0800, 0, 0) + RECORD.data
    decoded = decode(tmp_path, head + record * 2)
    assert [row["time_ns"] for row in decoded.rows] == [7_000_008_000] * 2


def test_frame_check_sequence_bits_are_no_link_type(tmp_path: Path) -> None:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 0x24000001)
    assert decode(tmp_path, head + pcap([RECORD])[24:]).counters.accepted == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_holds_the_same_packets(tmp_path: Path, expected: Decoded, order: str) -> None:
    assert decode(tmp_path, pcapng(RECORDS, order=order)) == expected


def test_blocks_are_as_large_as_asked(tmp_path: Path, expected: Decoded) -> None:
    path = write(tmp_path, pcap(RECORDS))
    assert decode_file(path, max_packets=7) == expected
    with open_capture(str(path)) as capture:
        assert [block.packets for block in capture.blocks(300)] == [300, 200]
        assert capture.bytes_read == capture.size == path.stat().st_size


Compress = Callable[[bytes], bytes]
STREAMS: dict[str, Compress] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip members": lambda data: (
        gzip.compress(data[:5000]) + bytes(64) + gzip.compress(data[5000:]) + bytes(512)
    ),
    "zstd": zstandard.compress,
    "zstd frames": lambda data: (
        b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstandard.compress(data[:5000]) + zstandard.compress(data[5000:])
    ),
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("chunk_octets", [1, 61, 4096, 1 << 20])
@pytest.mark.parametrize("make", [pcap, pcapng])
def test_compression_and_chunks_make_no_difference(
    tmp_path: Path, expected: Decoded, stream: str, chunk_octets: int, make: Callable[[list[Record]], bytes]
) -> None:
    path = write(tmp_path, STREAMS[stream](make(RECORDS)))
    assert decode_file(path, chunk_octets=chunk_octets) == expected
    with open_capture(str(path)) as capture:
        for _ in capture.blocks():
            pass
        assert capture.bytes_read == capture.size


@pytest.mark.parametrize("stream", STREAMS)
def test_standard_input(expected: Decoded, stream: str) -> None:
    program = (
        "from tests.producers.frames import decode_file\n"
        "d = decode_file('-')\n"
        "print(d.counters.read, len(d.rows), sum(r['flow_hash'] for r in d.rows), d.warnings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=STREAMS[stream](pcap(RECORDS)),
        capture_output=True,
        timeout=60,
        check=True,
    )
    hashes = sum(row["flow_hash"] for row in expected.rows)
    assert done.stdout.decode().strip() == f"600 500 {hashes} []"


def test_a_pipe_gives_its_packets_before_it_ends() -> None:
    program = (
        "from producers.sources.capture import open_capture\n"
        "with open_capture('-') as capture:\n"
        "    for block in capture.blocks(): print(block.packets, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout
        child.stdin.write(pcap([RECORD] * 3))
        child.stdin.flush()
        assert child.stdout.readline() == b"3\n"
        child.stdin.write(pcap([RECORD])[24:])
        child.stdin.close()
        assert child.stdout.readline() == b"1\n"


def interfaces_of_all_kinds() -> bytes:
    milli, binary = option(9, b"\x03"), option(9, b"\x8a")
    offset = option(9, b"\x00") + option(14, struct.pack("<q", 1000)) + option(0, b"")
    return (
        section()
        + interface(1, options=milli)
        + interface(101, options=binary)
        + interface(101, options=offset)
        + interface(9999)
        + enhanced(RECORD, 0, ticks=1500)
        + enhanced(Record(PACKET), 1, ticks=1536)
        + enhanced(Record(PACKET), 2, ticks=2)
        + enhanced(RECORD, 3)
        + enhanced(RECORD, 4)
    )


def test_interfaces_have_their_own_link_types_and_clocks(tmp_path: Path) -> None:
    decoded = decode(tmp_path, interfaces_of_all_kinds())
    assert [row["time_ns"] for row in decoded.rows] == [1_500_000_000, 1_500_000_000, 1_002_000_000_000]
    assert decoded.counters == DecodeCounters(5, 3, {"unknown_link_type": 1, "unknown_interface": 1})


def test_a_section_begins_anew(tmp_path: Path) -> None:
    big = section(">") + interface(101, order=">") + enhanced(Record(PACKET, 5000), order=">")
    again = section() + enhanced(RECORD)
    decoded = decode(tmp_path, interfaces_of_all_kinds() + big + again, chunk_octets=50)
    assert decoded.rows[3]["time_ns"] == 5000
    assert decoded.counters.skipped["unknown_interface"] == 2


def test_simple_and_obsolete_packet_blocks(tmp_path: Path) -> None:
    size = len(RECORD.data)
    obsolete = block(2, struct.pack("<HHIIII", 0, 0, 0, 7_000_000, size, size) + RECORD.data)
    simple = block(3, struct.pack("<I", size) + RECORD.data)
    cut = block(3, struct.pack("<I", 9000) + RECORD.data[:60])
    others = block(4, b"names") + block(5, bytes(16)) + block(10, bytes(40)) + block(0x0BAD, b"")
    head = section() + interface(snaplen=60)
    decoded = decode(tmp_path, head + others + obsolete + simple + others + cut)
    assert [row["time_ns"] for row in decoded.rows] == [7_000_000_000] * 3
    assert {row["octets"] for row in decoded.rows} == {len(PACKET)}


@pytest.mark.parametrize(
    ("resolution", "offset", "ticks", "time_ns"),
    [
        (9, 0, 1 << 62, 1 << 62),
        (9, 0, (1 << 62) + 1, None),
        (9, 0, 1 << 63, None),
        (6, 0, 2**62 // 1000, 2**62 // 1000 * 1000),
        (6, 0, 2**62 // 1000 + 1, None),
        (6, 0, (2**63 - 1) // 1000, None),
        (12, 0, 5_000_999, 5_000),
        (27, 0, 10**18, 1),
        (40, 0, 10**18, None),
        (0x80, 0, 3, 3_000_000_000),
        (0xC0, 0, 3, None),
        (0xBF, 0, 3 << 62, 1_500_000_000),
        (6, -1, 2_000_000, 1_000_000_000),
        (6, -3, 2_000_000, None),
        (9, 9_000_000_000, 1 << 62, None),
        (9, 1 << 62, 0, None),
    ],
)
def test_clocks_beyond_the_latest_event_time_are_clamped(
    tmp_path: Path, resolution: int, offset: int, ticks: int, time_ns: int | None
) -> None:
    options = option(9, bytes((resolution,))) + option(14, struct.pack("<q", offset))
    decoded = decode(tmp_path, section() + interface(options=options) + enhanced(RECORD, ticks=ticks))
    assert decoded.row["time_ns"] == (time_ns or 0)
    assert decoded.counters.clamped_times == (time_ns is None)


def test_a_packet_longer_than_its_block_is_a_bad_record(tmp_path: Path) -> None:
    wrong = bytearray(enhanced(RECORD))
    struct.pack_into("<I", wrong, 20, len(RECORD.data) + 4)
    short = block(6, bytes(16))
    decoded = decode(tmp_path, section() + interface() + bytes(wrong) + short + enhanced(RECORD))
    assert decoded.counters == DecodeCounters(3, 1, {"bad_record": 2})


ABSURD = "holds an absurd record length, so that reading stopped"


@pytest.mark.parametrize("chunk_octets", [30, 1 << 20])
@pytest.mark.parametrize(
    ("content", "counters", "warning"),
    [
        (pcap([]), DecodeCounters(), None),
        (section(), DecodeCounters(), None),
        (
            pcap([RECORD] * 2)[:-1],
            DecodeCounters(2, 1, {"cut_record": 1}),
            "ends inside packet 2 at byte 112",
        ),
        (
            pcap([RECORD] * 2)[:120],
            DecodeCounters(1, 1),
            "ends after packet 1, not at the end of a record, at byte 112",
        ),
        (
            pcapng([RECORD] * 2)[:-1],
            DecodeCounters(2, 1, {"cut_record": 1}),
            "ends inside packet 2 at byte 152",
        ),
        (
            pcapng([RECORD]) + section()[:20],
            DecodeCounters(1, 1),
            "ends after packet 1, not at the end of a record, at byte 152",
        ),
        (
            pcap([RECORD]) + struct.pack("<IIII", 1, 1, 262_145, 60) + bytes(300_000),
            DecodeCounters(2, 1, {"absurd_length": 1}),
            f"{ABSURD} at byte 112",
        ),
        (
            pcapng([RECORD]) + struct.pack("<II", 6, 0xFFFFFFFC) + bytes(40),
            DecodeCounters(2, 1, {"absurd_length": 1}),
            f"{ABSURD} at byte 152",
        ),
        (
            pcapng([RECORD]) + struct.pack("<II", 5, 13) + bytes(40),
            DecodeCounters(1, 1),
            f"{ABSURD} at byte 152",
        ),
        (pcapng([RECORD]) + section()[:8] + bytes(40), DecodeCounters(1, 1), f"{ABSURD} at byte 152"),
        (pcap([]) + bytes(4096), DecodeCounters(256, 0, {"truncated_link": 256}), None),
        (pcap([Record(ethernet(bytes(50), 0x0806))] * 3), DecodeCounters(3, 0, {"not_ip": 3}), None),
    ],
)
def test_captures_that_end_badly_give_what_they_hold(
    tmp_path: Path, content: bytes, counters: DecodeCounters, warning: str | None, chunk_octets: int
) -> None:
    path = write(tmp_path, content)
    decoded = decode_file(path, chunk_octets=chunk_octets)
    assert decoded.counters == counters
    assert decoded.warnings == ([f"{path}: {warning}"] if warning else [])


def test_a_compressed_file_cut_short_gives_the_packets_before(tmp_path: Path) -> None:
    # Zstd gives whole blocks of 128 KiB only.
    records = mixed_records(1800)
    for compress, told in ((gzip.compress, "its gzip data ends early; ends"), (zstandard.compress, "ends")):
        whole = compress(pcap(records))
        path = write(tmp_path, whole[: len(whole) // 2])
        decoded = decode_file(path)
        assert 500 < decoded.counters.read < 1300
        assert decoded.warnings[0].startswith(
            f"{path}: {told} inside packet {decoded.counters.read} at byte "
        )


def test_what_follows_compressed_data_but_is_none_is_told(tmp_path: Path, expected: Decoded) -> None:
    for name, compress in (("gzip", gzip.compress), ("zstd", zstandard.compress)):
        decoded = decode(tmp_path, compress(pcap(RECORDS)) + b"rest of another file")
        assert decoded.rows == expected.rows
        assert f"its {name} data is corrupt" in decoded.warnings[0]


def test_damage_inside_zstd_is_told(tmp_path: Path) -> None:
    data = bytearray(zstandard.compress(pcap(RECORDS)))
    data[-300:-200] = bytes(100)
    decoded = decode(tmp_path, bytes(data))
    assert decoded.counters.read > 0
    assert "its zstd data is corrupt" in decoded.warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, not a capture"),
        (b"hello\n" * 40, "is neither a pcap nor a pcapng capture"),
        (b"\xa1", "is neither a pcap nor a pcapng capture"),
        (pcap([])[:11], "ends inside its file header, at byte 11"),
        (pcap([], 9999), "link type 9999 is not supported"),
        (section()[:20], "has no valid pcapng section header"),
        (b"\x0a\x0d\x0d\x0a" + bytes(100), "has no valid pcapng section header"),
        (b"\x1f\x8b\x08\0" + bytes(range(200)), "its gzip data is corrupt"),
        (b"\x1f\x8b\x08\0", "its gzip data ends early"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 50, "its zstd data is corrupt"),
        (gzip.compress(b"hello\n", mtime=0), "is neither a pcap nor a pcapng capture"),
        (gzip.compress(b"", mtime=0), "is neither a pcap nor a pcapng capture"),
        (section() + interface(9999) + enhanced(RECORD), "none of its link types is supported"),
    ],
)
def test_what_is_no_capture_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    for chunk_octets in (3, 1 << 20):
        with pytest.raises(InputError) as caught:
            decode_file(path, chunk_octets=chunk_octets)
        text = str(caught.value)
        assert text.startswith(f"{path}: {message}")
        assert "\n" not in text


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pcap: no such file$"):
        open_capture(str(tmp_path / "absent.pcap"))
    with pytest.raises(InputError, match=r"is a directory, not a capture$"):
        open_capture(str(tmp_path))


def test_empty_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match=r"^standard input: is empty"):
        open_capture("-")


def test_counters_add_up_over_captures() -> None:
    one = DecodeCounters(5, 2, {"not_ip": 3}, 1, 0)
    two = DecodeCounters(4, 1, {"not_ip": 1, "cut_record": 2}, 0, 2)
    assert one + two == DecodeCounters(9, 3, {"not_ip": 4, "cut_record": 2}, 1, 2)
