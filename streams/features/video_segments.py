"""Segments of a video, or any other download in pieces: a request up, a burst of data down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.rounding import rounded

TCP = 6
LEAST_QUIC_REQUEST = 100
"""Payload of a UDP packet from the source that counts as a request; QUIC's acknowledgments are shorter."""
LAST = 10
EWMA = 0.2
_SUMMARIES = (
    ("mean", "mean"),
    ("std", "population standard deviation"),
    ("min", "smallest"),
    ("max", "largest"),
)

FEATURE = Feature(
    name="video_segments",
    level="application",
    doc="Sizes, durations and spacing of the segments a client fetches, over TCP or QUIC, without looking inside.",
    formula="A packet with payload from the source (UDP: more than 100 octets) is a request; if data came since the "
    "request before, that segment is complete: its octets are the payload down, its duration the time from its "
    "request to its last data. Columns named segment_ are over all segments complete so far, also in earlier "
    "windows; those named window_ over the row's own time. Moving average: x <- x + 0.2 (octets - x).",
    reference="Bronzino et al., Inferring Streaming Video Quality from Encrypted Traffic, POMACS 3(3), 2019; Bronzino "
    "et al., Traffic Refinery, POMACS 5(3), 2021",
    kept=(
        "octets", "request_ns", "data_ns", "complete_ns", "count", "mean", "m2", "least", "most", "sum", "average",
        "duration_sum", "request_gap", "request_m2", "completion_gap", "last",
    ),
    state=lambda depth: [
        ("octets", "u8"), ("request_ns", "i8"), ("data_ns", "i8"), ("complete_ns", "i8"), ("count", "u4"),
        ("mean", "f4"), ("m2", "f4"), ("least", "f4"), ("most", "f4"), ("sum", "u8"), ("average", "f4"),
        ("duration_sum", "f4"), ("request_gap", "f4"), ("request_m2", "f4"), ("completion_gap", "f4"),
        ("last", "f4", (LAST,)), ("window_count", "u4"), ("window_octets", "u8"),
    ],
    columns=lambda depth: [
        FeatureColumn("window_segments", "segments", "segments completed in the row's time"),
        FeatureColumn("window_segment_octets", "octets", "octets of the segments completed in the row's time"),
        FeatureColumn("segments", "segments", "segments complete so far"),
        FeatureColumn("segment_octets_sum", "octets", "octets of the segments so far"),
        *(FeatureColumn(f"segment_octets_{n}", "octets", f"{words} of the segments so far") for n, words in _SUMMARIES),
        *(
            FeatureColumn(f"segment_octets_{n}_last10", "octets", f"{words} of the last 10 segments")
            for n, words in _SUMMARIES
        ),
        FeatureColumn("segment_octets_average", "octets", "moving average of the segments"),
        FeatureColumn("segment_duration_mean_s", "s", "mean duration of a segment"),
        FeatureColumn("segment_request_gap_mean_s", "s", "mean time between the requests of segments"),
        FeatureColumn("segment_request_gap_std_s", "s", "population standard deviation of it"),
        FeatureColumn("segment_completion_gap_mean_s", "s", "mean time from a segment's last data to the next one's"),
        FeatureColumn("segment_open_octets", "octets", "octets so far of the segment that is not complete"),
    ],
)  # fmt: skip


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.payload_octets == 0:
        return
    if packet.direction == 0:
        if packet.protocol == TCP or packet.payload_octets > LEAST_QUIC_REQUEST:
            if state.octets > 0:
                _complete(state, packet.time_ns)
            if state.request_ns == 0:
                state.request_ns = packet.time_ns
    elif state.request_ns != 0:
        state.octets += packet.payload_octets
        state.data_ns = max(state.data_ns, packet.time_ns)


@compiled(error_model="numpy")
def _complete(state: Any, now_ns: int) -> None:
    """Fold the running segment into the statistics; the next one begins now."""
    octets = float(state.octets)
    at = state.count % LAST
    state.count += 1
    count = float(state.count)
    delta = octets - state.mean
    state.mean += delta / count
    state.m2 += delta * (octets - state.mean)
    if state.count == 1 or octets < state.least:
        state.least = octets
    if octets > state.most:
        state.most = octets
    state.sum += state.octets
    state.average = octets if state.count == 1 else state.average + EWMA * (octets - state.average)
    state.last[at] = octets
    state.duration_sum += max(np.int64(0), state.data_ns - state.request_ns) * 1e-9
    request_gap = max(np.int64(0), now_ns - state.request_ns) * 1e-9
    delta = request_gap - state.request_gap
    state.request_gap += delta / count
    state.request_m2 += delta * (request_gap - state.request_gap)
    if state.count > 1:
        gap = max(np.int64(0), state.data_ns - state.complete_ns) * 1e-9
        state.completion_gap += (gap - state.completion_gap) / (count - 1.0)
    state.complete_ns = state.data_ns
    state.window_count += 1
    state.window_octets += state.octets
    state.octets = 0
    state.request_ns = now_ns


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    count = float(state.count)
    out[at], out[at + 1] = state.window_count, state.window_octets
    out[at + 2], out[at + 3] = count, state.sum
    out[at + 4] = rounded(state.mean)
    out[at + 5] = rounded(np.sqrt(max(0.0, state.m2 / count))) if count > 0 else 0.0
    out[at + 6] = state.least
    out[at + 7] = state.most
    _emit_last(state, out, at + 8)
    out[at + 12] = rounded(state.average)
    out[at + 13] = rounded(state.duration_sum / count) if count > 0 else 0.0
    out[at + 14] = rounded(state.request_gap)
    out[at + 15] = rounded(np.sqrt(max(0.0, state.request_m2 / count))) if count > 0 else 0.0
    out[at + 16] = rounded(state.completion_gap)
    out[at + 17] = state.octets


@compiled(error_model="numpy")
def _emit_last(state: Any, out: NDArray[np.float32], at: int) -> None:
    """Write mean, standard deviation, minimum and maximum of the last segments."""
    kept: int = min(int(state.count), LAST)
    total, least, most = 0.0, 0.0, 0.0
    for i in range(kept):
        octets = float(state.last[i])
        total += octets
        least = octets if i == 0 else min(least, octets)
        most = max(most, octets)
    mean = total / kept if kept > 0 else 0.0
    squares = 0.0
    for i in range(kept):
        squares += (state.last[i] - mean) * (state.last[i] - mean)
    out[at] = rounded(mean)
    out[at + 1] = rounded(np.sqrt(squares / kept)) if kept > 0 else 0.0
    out[at + 2], out[at + 3] = least, most
