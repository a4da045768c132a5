"""``Prediction`` messages written by compiled code out of structured arrays: the bytes that the codec writes, at a
fraction of its price, for models that answer tens of thousands of flows a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.avro_writer import (
    ID_BYTES,
    Bytes,
    Texts,
    avro_boolean,
    avro_integer,
    avro_label,
    avro_text,
    cut,
    put_endpoints,
    put_id,
    put_integer,
    put_text,
    put_word,
    texts_of,
)
from schemas.codec import head_of
from schemas.features import ROW_COLUMNS, FeatureBatch
from schemas.flow_key import ICMP, ICMP4_COUNTERPARTS, ICMP6, ICMP6_COUNTERPARTS, SCTP, TCP, UDP

PREDICTION_VERSION = 2
"""``schema_version`` of what is written here."""

_ROOM = 420
"""Most bytes of a message beside its texts: three ids, two addresses, fifteen integers of ten bytes, two numbers."""
_BASE64: Bytes = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
_COMMUNITY_ID_LENGTH = 2 * 30
"""What Avro writes before a text of 30 characters."""


@dataclass(frozen=True)
class PredictionTexts:
    """What the predictions of some rows share; the fields are those of the schema."""

    probe: str
    representation: str
    model: str
    model_version: str
    replayed: bool
    labels: tuple[str | None, ...]
    """What a row's label counts."""


PREDICTED: np.dtype[Any] = np.dtype(
    [
        ("flow_id", "<u8"),
        ("source_address", "u1", (16,)),
        ("destination_address", "u1", (16,)),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("flow_end_reason", "u1"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("depth", "<u4"),
        ("probe_time_ns", "<i8"),
        ("bus_to_flows_ns", "<i8"),
        ("flows_ns", "<i8"),
        ("bus_to_model_ns", "<i8"),
        ("received_ns", "<i8"),
        ("tier", "<i1"),
        ("confidence", "<f8"),
        ("ood", "<f8"),
    ]
)
"""What a row must have at least, in any order and precision: addresses as in feature batches; ``end_ns`` is the
prediction's event time, ``received_ns`` when the model got the row, ``tier`` counts from 0, -1 for none."""


_FROM_FEATURES = tuple(
    name for name in PREDICTED.names or () if name in {column.name for column in ROW_COLUMNS}
)


def fill_predicted(
    rows: NDArray[np.void], batch: FeatureBatch, where: NDArray[np.intp] | slice, received_ns: int
) -> None:
    """Write what predictions tell of rows of a feature batch. Clocks may differ: no stage time is negative.

    Args:
        rows: written: (rows,) with the fields of ``PREDICTED``.
        batch: that the rows are of.
        where: which of them.
        received_ns: wall clock when the model got the batch.
    """
    for name in _FROM_FEATURES:
        rows[name] = batch.columns[name][where]
    rows["probe_time_ns"] = batch.probe_time_ns
    rows["bus_to_flows_ns"] = max(0, batch.flows_received_time_ns - batch.probe_time_ns)
    rows["flows_ns"] = max(0, batch.flows_sent_time_ns - batch.flows_received_time_ns)
    rows["bus_to_model_ns"] = max(0, received_ns - batch.flows_sent_time_ns)
    rows["received_ns"] = received_ns


_HEAD, _PROBE, _REPRESENTATION, _TAIL, _LABELS = range(5)
"""Where the texts of a writer stand; all labels are the last of them."""


class PredictionWriter:
    """Writes the messages of rows that share their texts."""

    def __init__(self, texts: PredictionTexts) -> None:
        labels = [avro_label(label) for label in texts.labels]
        shared = [
            head_of("Prediction") + avro_integer(PREDICTION_VERSION),
            avro_text(texts.probe),
            avro_text(texts.representation),
            avro_text(texts.model) + avro_text(texts.model_version) + avro_boolean(texts.replayed),
        ]
        self._texts = texts_of((*shared, *labels))
        self._flow_at = len(shared[_HEAD]) + ID_BYTES + 1
        self._room = _ROOM + sum(map(len, shared)) + max(map(len, labels), default=0)

    def encode(
        self,
        rows: NDArray[np.void],
        prediction_id: NDArray[np.uint64],
        label: NDArray[np.int64],
        final: bool,
        made_ns: int,
    ) -> tuple[list[bytes], list[str]]:
        """Return the message of each row, and its key: the flow id as text.

        Args:
            rows: (rows,) with the fields of ``PREDICTED``.
            prediction_id: (rows,).
            label: (rows,) index into the labels.
            final: whether these answers are.
            made_ns: wall clock when they were there.
        """
        out = np.empty(len(rows) * self._room, np.uint8)
        ends = np.empty(len(rows), np.int64)
        _write_rows(rows, prediction_id, label, final, made_ns, self._texts, out, ends)
        return cut(out, ends, self._flow_at)


def warm_up_writer() -> None:
    """Have the writer of ``PREDICTED`` rows compiled, or loaded, before a message waits for it."""
    texts = PredictionTexts("", "", "", "", False, (None,))
    ids, labels = np.zeros(1, np.uint64), np.zeros(1, np.int64)
    PredictionWriter(texts).encode(np.zeros(1, PREDICTED), ids, labels, True, 0)


@njit(cache=True, nogil=True)
def _write_rows(
    rows: NDArray[np.void],
    prediction_id: NDArray[np.uint64],
    label: NDArray[np.int64],
    final: bool,
    made_ns: int,
    texts: Texts,
    out: Bytes,
    ends: NDArray[np.int64],
) -> None:
    at = 0
    words = np.empty(80, np.uint32)
    number = np.empty(1, np.float64)
    bits = number.view(np.uint64)
    for i in range(len(rows)):
        row = rows[i]
        at = put_text(texts, _HEAD, out, at)
        at = put_id(prediction_id[i], out, at)
        at = put_id(row["flow_id"], out, at)
        at = _community_id(row, words, out, at)
        at = put_text(texts, _PROBE, out, at)
        at = put_endpoints(row, out, at)
        at = put_integer(row["end_ns"], out, at)
        at = put_text(texts, _REPRESENTATION, out, at)
        at = put_integer(np.int64(row["depth"]), out, at)
        at = put_integer(np.int64(row["flow_end_reason"]), out, at)
        at = put_text(texts, _LABELS + label[i], out, at)
        number[0] = row["confidence"]
        at = put_word(bits[0], 8, out, at)
        at = put_text(texts, _TAIL, out, at)
        at = put_integer(row["probe_time_ns"], out, at)
        at = put_integer(row["bus_to_flows_ns"], out, at)
        at = put_integer(row["flows_ns"], out, at)
        at = put_integer(row["bus_to_model_ns"], out, at)
        at = put_integer(max(0, made_ns - row["received_ns"]), out, at)
        out[at] = 1 if final else 0
        at = put_integer(np.int64(row["tier"]) + 1, out, at + 1)
        number[0] = row["ood"]
        at = put_word(bits[0], 8, out, at)
        ends[i] = at


@njit(cache=True, nogil=True)
def _community_id(row: Any, words: NDArray[np.uint32], out: Bytes, at: int) -> int:
    """Write the Community ID (version 1, seed 0) of a five-tuple, its length before it."""
    source, destination = row["source_address"], row["destination_address"]
    first, second = row["source_port"], row["destination_port"]
    size = 4 if row["ip_version"] == 4 else 16
    protocol = np.int64(row["protocol"])
    if _turned(source, destination, first, second, size) and not _one_way(protocol, np.int64(first)):
        source, destination, first, second = destination, source, second, first
    text = np.zeros(64, np.uint8)
    n = 2
    for k in range(size):
        text[n + k], text[n + size + k] = source[k], destination[k]
    n += 2 * size
    text[n] = protocol
    n += 2
    if protocol in (ICMP, TCP, UDP, ICMP6, SCTP):
        text[n], text[n + 1], text[n + 2], text[n + 3] = first >> 8, first & 255, second >> 8, second & 255
        n += 4
    digest = _sha1(text, n, words)
    out[at], out[at + 1], out[at + 2] = _COMMUNITY_ID_LENGTH, 49, 58
    at += 3
    # 20 bytes are six groups of three, and two bytes more.
    for k in range(0, 18, 3):
        group = (np.int64(digest[k]) << 16) | (np.int64(digest[k + 1]) << 8) | np.int64(digest[k + 2])
        for shift in (18, 12, 6, 0):
            out[at] = _BASE64[(group >> shift) & 63]
            at += 1
    group = (np.int64(digest[18]) << 16) | (np.int64(digest[19]) << 8)
    for shift in (18, 12, 6):
        out[at] = _BASE64[(group >> shift) & 63]
        at += 1
    out[at] = 61
    return at + 1


@njit(cache=True, nogil=True, inline="always")
def _turned(source: Bytes, destination: Bytes, first: int, second: int, size: int) -> bool:
    for k in range(size):
        if source[k] != destination[k]:
            return destination[k] < source[k]  # type: ignore[no-any-return]
    return second < first


@njit(cache=True, nogil=True, inline="always")
def _one_way(protocol: int, port: int) -> bool:
    if protocol == ICMP:
        return port > 255 or ICMP4_COUNTERPARTS[port] < 0  # type: ignore[no-any-return]
    if protocol == ICMP6:
        return port > 255 or ICMP6_COUNTERPARTS[port] < 0  # type: ignore[no-any-return]
    return False


@njit(cache=True, nogil=True, inline="always")
def _rotated(value: np.uint32, by: int) -> np.uint32:
    return np.uint32((value << np.uint32(by)) | (value >> np.uint32(32 - by)))


@njit(cache=True, nogil=True)
def _sha1(text: Bytes, size: int, w: NDArray[np.uint32]) -> Bytes:
    """Return the SHA-1 (FIPS 180-4) of at most 55 bytes; ``text`` has 64, zeros behind them."""
    text[size] = 128
    text[62], text[63] = (8 * size) >> 8, (8 * size) & 255
    for t in range(16):
        k = 4 * t
        w[t] = (
            (np.uint32(text[k]) << np.uint32(24))
            | (np.uint32(text[k + 1]) << np.uint32(16))
            | (np.uint32(text[k + 2]) << np.uint32(8))
            | np.uint32(text[k + 3])
        )
    for t in range(16, 80):
        w[t] = _rotated(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1)
    h = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0], np.uint32)
    a, b, c, d, e = h[0], h[1], h[2], h[3], h[4]
    for t in range(80):
        if t < 20:
            f, k32 = (b & c) | (~b & d), np.uint32(0x5A827999)
        elif t < 40:
            f, k32 = b ^ c ^ d, np.uint32(0x6ED9EBA1)
        elif t < 60:
            f, k32 = (b & c) | (b & d) | (c & d), np.uint32(0x8F1BBCDC)
        else:
            f, k32 = b ^ c ^ d, np.uint32(0xCA62C1D6)
        turned = np.uint32(_rotated(a, 5) + f + e + k32 + w[t])
        e, d, c, b, a = d, c, _rotated(b, 30), a, turned
    h[0], h[1], h[2], h[3], h[4] = h[0] + a, h[1] + b, h[2] + c, h[3] + d, h[4] + e
    out = np.empty(20, np.uint8)
    for i in range(20):
        out[i] = np.uint8((h[i >> 2] >> np.uint32(24 - 8 * (i & 3))) & np.uint32(255))
    return out
