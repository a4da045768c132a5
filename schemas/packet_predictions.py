"""``PacketPrediction`` messages of a payload batch, written by compiled code out of structured arrays: the bytes that
the codec writes, at a fraction of its price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.avro_writer import (
    ADDRESS_BYTES,
    ID_BYTES,
    INTEGER_BYTES,
    LABEL,
    Bytes,
    Texts,
    avro_boolean,
    avro_integer,
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

PACKET_PREDICTION_VERSION = 1
"""``schema_version`` of what is written here."""

_ROOM = 2 * ID_BYTES + 2 * ADDRESS_BYTES + 11 * INTEGER_BYTES + 1 + 8 + 1
"""Most bytes of a message beside its texts and probabilities: ids, addresses, integers, ``reversed``, confidence, and
the end of the probabilities."""
_SHARE_BYTES = 4

PACKET_FLOW: np.dtype[Any] = np.dtype(
    [
        ("flow_id", "<u8"),
        ("source_address", "u1", (16,)),
        ("destination_address", "u1", (16,)),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("start_ns", "<i8"),
    ]
)
"""What the packets of a flow share; an IPv4 address is in the first four octets."""

PACKET: np.dtype[Any] = np.dtype(
    [
        ("flow", "<i8"),
        ("packet_number", "<i8"),
        ("reversed", "?"),
        ("event_time_ns", "<i8"),
        ("octets", "<i8"),
    ]
)
"""A packet; ``flow`` counts ``PACKET_FLOW`` rows."""


@dataclass(frozen=True)
class PacketTexts:
    """What the predictions of some packets share; the fields are those of the schema."""

    probe: str
    model: str
    model_version: str
    replayed: bool
    classes: tuple[str, ...]
    """Every class, in the order of ``probabilities``."""


class StageTimes(NamedTuple):
    """When and how long the packets of a batch were where; the fields are those of the schema."""

    probe_time_ns: int
    bus_to_model_ns: int
    queue_ns: int
    model_ns: int


_HEAD, _PROBE, _TAIL, _COUNT, _CLASSES = range(5)
"""Where the texts of a writer stand; behind ``_COUNT``, how many classes there are, are their names."""


class PacketPredictionWriter:
    """Writes the messages of packets that share their texts."""

    def __init__(self, texts: PacketTexts) -> None:
        names = [avro_text(name) for name in texts.classes]
        shared = [
            head_of("PacketPrediction") + avro_integer(PACKET_PREDICTION_VERSION),
            avro_text(texts.probe),
            avro_text(texts.model) + avro_text(texts.model_version) + avro_boolean(texts.replayed),
        ]
        self._texts = texts_of((*shared, avro_integer(len(names)), *names))
        self._classes = len(names)
        self._flow_at = len(shared[_HEAD]) + ID_BYTES + 1
        self._room = _ROOM + sum(map(len, shared)) + max(map(len, names), default=0)
        self._probabilities_room = INTEGER_BYTES + sum(map(len, names)) + _SHARE_BYTES * len(names)

    def encode(
        self,
        flows: NDArray[np.void],
        packets: NDArray[np.void],
        prediction_id: NDArray[np.uint64],
        label: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        with_probabilities: bool,
        times: StageTimes,
    ) -> tuple[list[bytes], list[str]]:
        """Return the message of each packet, and its key: the flow id as text.

        Args:
            flows: (flows,) ``PACKET_FLOW``.
            packets: (packets,) ``PACKET``; their flows exist.
            prediction_id: (packets,).
            label: (packets,) index into the classes.
            probabilities: (packets, classes); that of its label is a packet's confidence.
            with_probabilities: whether the messages have all of them.
            times: of the batch.

        Raises:
            ValueError: the probabilities are not of so many packets and classes.
        """
        if probabilities.shape != (len(packets), self._classes):
            raise ValueError(
                f"probabilities {probabilities.shape}, {len(packets)} packets, {self._classes} classes"
            )
        room = self._room + (self._probabilities_room if with_probabilities else 0)
        out = np.empty(len(packets) * room, np.uint8)
        ends = np.empty(len(packets), np.int64)
        # Other types and layouts would be compiled anew, while a message waits.
        shares = np.ascontiguousarray(probabilities, np.float32)
        _write_packets(
            flows, packets, prediction_id, label, shares, with_probabilities, *times, self._texts, out, ends
        )
        return cut(out, ends, self._flow_at)


@njit(cache=True, nogil=True)
def _write_packets(
    flows: NDArray[np.void],
    packets: NDArray[np.void],
    prediction_id: NDArray[np.uint64],
    label: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    with_probabilities: bool,
    probe_time_ns: int,
    bus_to_model_ns: int,
    queue_ns: int,
    model_ns: int,
    texts: Texts,
    out: Bytes,
    ends: NDArray[np.int64],
) -> None:
    at = 0
    number = np.empty(1, np.float64)
    bits = number.view(np.uint64)
    shares = probabilities.view(np.uint32)
    for i in range(len(packets)):
        packet = packets[i]
        at = put_text(texts, _HEAD, out, at)
        at = put_id(prediction_id[i], out, at)
        at = _put_flow(flows[packet["flow"]], texts, out, at)
        at = put_integer(packet["packet_number"], out, at)
        out[at] = 1 if packet["reversed"] else 0
        at = put_integer(packet["event_time_ns"], out, at + 1)
        at = put_integer(packet["octets"], out, at)
        out[at] = LABEL
        at = put_text(texts, _CLASSES + label[i], out, at + 1)
        number[0] = probabilities[i, label[i]]
        at = put_word(bits[0], 8, out, at)
        if with_probabilities:
            at = put_text(texts, _COUNT, out, at)
            for k in range(shares.shape[1]):
                at = put_text(texts, _CLASSES + k, out, at)
                at = put_word(np.uint64(shares[i, k]), _SHARE_BYTES, out, at)
        out[at] = 0
        at = put_text(texts, _TAIL, out, at + 1)
        at = put_integer(probe_time_ns, out, at)
        at = put_integer(bus_to_model_ns, out, at)
        at = put_integer(queue_ns, out, at)
        at = put_integer(model_ns, out, at)
        ends[i] = at


@njit(cache=True, nogil=True)
def _put_flow(flow: Any, texts: Texts, out: Bytes, at: int) -> int:
    at = put_id(flow["flow_id"], out, at)
    at = put_text(texts, _PROBE, out, at)
    return put_endpoints(flow, out, at)
