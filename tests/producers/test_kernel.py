"""Frames given as a buffer and a list, as a live capture gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from producers.columns import allocate
from producers.decoder.kernel import allocate_frames, decode_frames, writable
from producers.decoder.reasons import CLAMPED_TIMES, DecodeCounters, counters_of
from producers.decoder.state import allocate_state
from tests.producers.frames import decode_file, mixed_records, pcap, rows_of


def test_frames_in_a_ring_decode_like_a_file(tmp_path: Path) -> None:
    records = mixed_records(60)
    path = tmp_path / "file.pcap"
    path.write_bytes(pcap(records))
    # The ring holds the frames backwards, with gaps.
    ring, frames, at = bytearray(), allocate_frames(60), 0
    for i in reversed(range(60)):
        ring += bytes(5) + records[i].data
        at += 5
        frames.start[i], frames.captured[i] = at, len(records[i].data)
        frames.original[i], frames.time_ns[i], frames.link_type[i] = (
            len(records[i].data),
            records[i].time_ns,
            1,
        )
        at += len(records[i].data)
    raw = np.frombuffer(bytes(ring), np.uint8)
    columns, state = allocate(100), allocate_state()
    rows = decode_frames(raw, frames, 24, writable(columns), 0, state)
    assert rows == 20
    rows = decode_frames(raw, allocate_frames(), 0, writable(columns), rows, state)
    rest = type(frames)(*(column[24:] for column in frames))
    rows = decode_frames(raw, rest, 36, writable(columns), rows, state)
    assert counters_of(state.counts) == DecodeCounters(60, 50, {"not_ip": 10})
    assert rows_of(columns.head(rows)) == decode_file(path).rows


def test_times_before_1970_are_clamped_and_counted() -> None:
    record = mixed_records(1)[0]
    frames, columns, state = allocate_frames(), allocate(1), allocate_state()
    frames.captured[0], frames.time_ns[0], frames.link_type[0] = len(record.data), -1, 1
    columns.time_ns[0] = 5
    assert decode_frames(np.frombuffer(record.data, np.uint8), frames, 1, writable(columns), 0, state) == 1
    assert columns.time_ns[0] == 0
    assert state.counts[CLAMPED_TIMES] == 1
