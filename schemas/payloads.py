"""Payload batches: the first octets of chosen packets, as a probe puts them on the bus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.codec import decode, encode, schema
from schemas.columns import Array, columns_of, pack, unpack
from schemas.compiled import compiled
from schemas.errors import CodecError
from schemas.packets import LATEST_NS
from schemas.place import checked_place, place_of

FIRST_OCTETS = 1480
"""Octets of an IP payload that a model sees: what an Ethernet frame carries behind an IPv4 header."""

MASKED_OCTETS = 20
"""Octets of a payload that are never sent: the transport header, from whose ports a model would learn."""

MAX_ROWS = 512
"""Most packets in a batch: with all octets of each below 0.8 MB, so that it fits a message of 1 MB."""

FAULTS = (
    "",
    "a packet points past the flow directory",
    "a direction other than 0 and 1",
    "a time before 1970 or after 2116",
    "an IP version other than 4 and 6",
    "a packet longer than first_octets",
    "packets whose lengths are not those of the payload",
    "a packet number of 0",
)

COLUMNS = columns_of(schema("PayloadBatch"))
FLOW_COLUMNS = tuple(c for c in COLUMNS if c.rows == "flow_count")
ROW_COLUMNS = tuple(c for c in COLUMNS if c.rows == "packet_count")


@dataclass(frozen=True)
class PayloadBatch:
    """Payloads of one partition's flows; ``columns`` holds FLOW_COLUMNS, ROW_COLUMNS and ``payload`` by name.

    Flow columns have one row per flow in the batch (addresses are (rows, 16) uint8), row columns one per packet
    in the order seen; ``payload`` holds their octets one after another.
    """

    probe: str
    epoch: int
    partition: int
    partitions: int
    sequence: int
    sent_time_ns: int
    columns: dict[str, Array]
    first_octets: int = FIRST_OCTETS
    masked_octets: int = MASKED_OCTETS
    observation_point: str = ""
    end_of_stream: bool = False
    replayed: bool = False

    @property
    def rows(self) -> int:
        """Return how many packets the batch holds."""
        return len(self.columns["time_ns"])

    @property
    def flows(self) -> int:
        """Return how many flows its packets are of."""
        return len(self.columns["flow_id"])

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each packet's octets begin in ``payload``: (rows + 1,), the last one is its length."""
        out = np.zeros(self.rows + 1, np.int64)
        np.cumsum(self.columns["length"], out=out[1:])
        return out

    def payload(self, row: int) -> bytes:
        """Return a packet's octets as a model sees them: masked ones and trailing zeros filled in."""
        sent = self.columns["payload"][self.offsets[row] : self.offsets[row + 1]].tobytes()
        return (bytes(self.masked_octets) + sent).ljust(self.first_octets, b"\0")

    def vectors(self, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return all packets as a (rows, FIRST_OCTETS) matrix, masked and padded with zeros.

        ``out`` is written to where it is given: at least so many rows, of which those are returned.
        """
        if out is None:
            out = np.empty((self.rows, FIRST_OCTETS), np.uint8)
        _fill(self.columns["payload"], self.columns["length"], self.masked_octets, out)
        return out[: self.rows]

    def encode(self) -> bytes:
        """Return the batch as a message for the ``payloads`` topic."""
        return encode(
            "PayloadBatch",
            {
                **place_of(self),
                "first_octets": self.first_octets,
                "masked_octets": self.masked_octets,
                "flow_count": self.flows,
                "packet_count": self.rows,
                "payload_octets": len(self.columns["payload"]),
                **pack(self.columns, COLUMNS),
            },
        )

    def sealed(self, sent_time_ns: int) -> PayloadBatch:
        """Return the batch with the wall clock at which it leaves the probe."""
        return replace(self, sent_time_ns=sent_time_ns)


def empty_columns() -> dict[str, Array]:
    """Return the columns of a batch without packets, as an end-of-stream marker carries them."""
    return {c.name: np.empty((0, *c.dtype.shape), dtype=c.dtype.base) for c in COLUMNS}


@compiled
def _fill(
    payload: NDArray[np.uint8], length: NDArray[np.uint16], masked: int, out: NDArray[np.uint8]
) -> None:
    begin, width = np.int64(0), out.shape[1]
    for row in range(len(length)):
        # Places that count from 0 let the compiler copy many octets at once.
        whole, line, sent = out[row], out[row, masked:], payload[begin:]
        for k in range(width):
            whole[k] = 0
        octets = np.int64(length[row])
        for k in range(octets):
            line[k] = sent[k]
        begin += octets


def decode_payload_batch(data: bytes) -> PayloadBatch:
    """Decode and check a message of the ``payloads`` topic.

    The check makes the columns safe for compiled kernels, which do not look at bounds.

    Raises:
        CodecError: not a payload batch, columns of unequal length, or values out of range.
    """
    record = decode("PayloadBatch", data)
    columns = unpack(record, COLUMNS)
    _check(record, columns)
    return PayloadBatch(
        **checked_place(record),
        first_octets=record["first_octets"],
        masked_octets=record["masked_octets"],
        columns=columns,
    )


def _check(record: dict[str, Any], columns: dict[str, Array]) -> None:
    packets, flows = record["packet_count"], record["flow_count"]
    if packets > MAX_ROWS or flows > packets:
        raise CodecError(f"a batch of {packets} payloads and {flows} flows; at most {MAX_ROWS} payloads")
    masked, first = record["masked_octets"], record["first_octets"]
    if not 0 <= masked <= first <= FIRST_OCTETS:
        raise CodecError(f"first_octets {first}, masked_octets {masked}; at most {FIRST_OCTETS}")
    fault = FAULTS[
        _find_fault(
            columns["start_ns"],
            columns["ip_version"],
            columns["first_direction"],
            columns["flow_index"],
            columns["time_ns"],
            columns["packet_number"],
            columns["direction"],
            columns["length"],
            record["payload_octets"],
            first - masked,
        )
    ]
    if fault:
        raise CodecError(fault)


@njit(cache=True, nogil=True)
def _find_fault(
    start_ns: NDArray[np.int64],
    ip_version: NDArray[np.uint8],
    first_direction: NDArray[np.uint8],
    flow_index: NDArray[np.uint16],
    time_ns: NDArray[np.int64],
    packet_number: NDArray[np.uint32],
    direction: NDArray[np.uint8],
    length: NDArray[np.uint16],
    payload_octets: int,
    most_octets: int,
) -> int:
    """Return the place in FAULTS of the first thing wrong with the values, 0 if nothing is."""
    for f in range(len(start_ns)):
        if first_direction[f] > 1:
            return 2
        if start_ns[f] < 0 or start_ns[f] > LATEST_NS:
            return 3
        if ip_version[f] != 4 and ip_version[f] != 6:
            return 4
    octets = 0
    for i in range(len(time_ns)):
        if flow_index[i] >= len(start_ns):
            return 1
        if direction[i] > 1:
            return 2
        if time_ns[i] < 0 or time_ns[i] > LATEST_NS:
            return 3
        if length[i] > most_octets:
            return 5
        if packet_number[i] == 0:
            return 7
        octets += length[i]
    return 6 if octets != payload_octets else 0
