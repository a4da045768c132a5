"""``Prediction`` messages of many rows at once: the bytes that the codec writes, at a fraction of its price."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.codec import head_of

_VARINT_BYTES = 10
"""Most bytes of a 64-bit integer in Avro."""
_ID, _COMMUNITY_ID = chr(2 * 16), chr(2 * 30)
"""What Avro writes before texts of so many characters."""
_DOUBLE = struct.Struct("<d")
PREDICTION_VERSION = 2
"""``schema_version`` of what is written here."""
_NO_CASCADE = b"\x01\x00" + bytes(8)
"""``final``, ``tier``, ``ood`` of a model that is no cascade."""
_NO_LABEL = b"\x00"
_LABEL = b"\x02"
"""Which branch of the union ``[null, string]`` follows."""


@dataclass(frozen=True)
class PredictionSource:
    """What the predictions of a message of features share; the fields are those of the schema."""

    probe: str
    representation: str
    model: str
    model_version: str
    replayed: bool
    stage_times_ns: tuple[int, int, int, int, int]
    """``probe_time_ns``, ``bus_to_flows_ns``, ``flows_ns``, ``bus_to_model_ns``, ``model_ns``."""


@dataclass(frozen=True)
class PredictionRows:
    """What differs by row; everything has as many rows."""

    prediction_ids: Sequence[str]
    flow_ids: Sequence[str]
    """Both of 16 characters."""
    community_ids: Sequence[str]
    """Of 30 characters."""
    addresses: Sequence[bytes]
    """Source and destination address, each as ``avro_text`` gives it."""
    places: NDArray[np.int64]
    """(rows, 5): source and destination port, protocol, ``start_ns``, ``event_time_ns``."""
    stages: NDArray[np.int64]
    """(rows, 2): depth, flow end reason."""
    answers: Sequence[tuple[str | None, float]]
    """Label and confidence."""


def encode_predictions(source: PredictionSource, rows: PredictionRows) -> list[bytes]:
    """Return the message of each row."""
    head = head_of("Prediction") + avro_integers((PREDICTION_VERSION,))
    probe, representation = avro_text(source.probe), avro_text(source.representation)
    tail = avro_text(source.model) + avro_text(source.model_version)
    tail += (b"\x01" if source.replayed else b"\x00") + avro_integers(source.stage_times_ns) + _NO_CASCADE
    labels = {label: avro_label(label) for label in {label for label, _ in rows.answers}}
    return [
        b"".join((
            head, f"{_ID}{prediction}{_ID}{flow}{_COMMUNITY_ID}{community}".encode(), probe, addresses,
            place, representation, stage, labels[label], _DOUBLE.pack(confidence), tail,
        ))
        for prediction, flow, community, addresses, place, stage, (label, confidence) in zip(
            rows.prediction_ids, rows.flow_ids, rows.community_ids, rows.addresses,
            varints(rows.places), varints(rows.stages), rows.answers, strict=True,
        )
    ]  # fmt: skip


def avro_text(text: str) -> bytes:
    """Return a text as Avro writes it: its length in bytes, then its UTF-8."""
    raw = text.encode()
    # Lengths up to 63 take one byte: twice their value.
    return (_SHORT[len(raw)] if len(raw) < len(_SHORT) else avro_integers((len(raw),))) + raw


_SHORT = tuple(bytes((2 * length,)) for length in range(64))


def avro_label(label: str | None) -> bytes:
    """Return a label, or none, as Avro writes it."""
    return _NO_LABEL if label is None else _LABEL + avro_text(label)


def avro_integers(values: Iterable[int]) -> bytes:
    """Return integers as Avro writes them, one behind the other."""
    return varints(np.array([tuple(values)], dtype=np.int64))[0]


def varints(values: NDArray[np.int64]) -> list[bytes]:
    """Return the integers of each row, (rows, integers), as Avro writes them one behind the other."""
    width = values.shape[1] * _VARINT_BYTES
    out = np.empty((len(values), width), dtype=np.uint8)
    ends = np.empty(len(values), dtype=np.int64)
    _write(np.ascontiguousarray(values, dtype=np.int64), out, ends)
    raw = out.tobytes()
    return [raw[at : at + end] for at, end in zip(range(0, len(raw), width), ends.tolist(), strict=True)]


@njit(cache=True, nogil=True)
def _write(values: NDArray[np.int64], out: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
    """Write zigzag varints; a row of ``out`` has room for ten bytes an integer."""
    for i in range(values.shape[0]):
        at = 0
        for j in range(values.shape[1]):
            value = values[i, j]
            left = np.uint64((value << 1) ^ (value >> 63))
            while left > np.uint64(127):
                out[i, at] = np.uint8((left & np.uint64(127)) | np.uint64(128))
                left >>= np.uint64(7)
                at += 1
            out[i, at] = np.uint8(left)
            at += 1
        ends[i] = at
