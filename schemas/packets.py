"""Packet batches: what a probe puts on the bus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.codec import decode, encode, schema
from schemas.columns import Array, columns_of, pack, unpack
from schemas.errors import CodecError

MAX_PACKETS = 2048
"""Most packets in a batch: about 60 KiB, the size at which a Faust agent and Kafka both run well."""

LATEST_NS = 1 << 62
"""Latest event time, in the year 2116: adding any timeout to it stays far from the end of 64 bits."""

FAULTS = (
    "",
    "a packet points past the flow directory",
    "a direction other than 0 and 1",
    "a packet before 1970",
    "a packet after 2116",
    "an IP version other than 4 and 6",
)

COLUMNS = columns_of(schema("PacketBatch"))
FLOW_COLUMNS = tuple(c for c in COLUMNS if c.rows == "flow_count")
PACKET_COLUMNS = tuple(c for c in COLUMNS if c.rows == "packet_count")


@dataclass(frozen=True)
class PacketBatch:
    """Packets of one partition's flows; ``columns`` holds FLOW_COLUMNS and PACKET_COLUMNS by name.

    Flow columns have one row per distinct five-tuple (addresses are (rows, 16) uint8), packet columns one row
    per packet in the order seen.
    """

    probe: str
    epoch: int
    partition: int
    partitions: int
    sequence: int
    sent_time_ns: int
    columns: dict[str, Array]
    observation_point: str = ""
    end_of_stream: bool = False
    replayed: bool = False

    @property
    def packets(self) -> int:
        """Return how many packets the batch holds."""
        return len(self.columns["time_ns"])

    @property
    def flows(self) -> int:
        """Return how many distinct five-tuples the batch holds."""
        return len(self.columns["flow_hash"])

    def encode(self) -> bytes:
        """Return the batch as a message for the ``packets`` topic."""
        return encode(
            "PacketBatch",
            {
                "probe": self.probe,
                "observation_point": self.observation_point,
                "epoch": self.epoch,
                "partition": self.partition,
                "partitions": self.partitions,
                "sequence": self.sequence,
                "end_of_stream": self.end_of_stream,
                "replayed": self.replayed,
                "sent_time_ns": self.sent_time_ns,
                "flow_count": self.flows,
                "packet_count": self.packets,
                **pack(self.columns, COLUMNS),
            },
        )

    def sealed(self, sent_time_ns: int) -> PacketBatch:
        """Return the batch with the wall clock at which it leaves the probe."""
        return replace(self, sent_time_ns=sent_time_ns)


def empty_columns() -> dict[str, Array]:
    """Return the columns of a batch without packets, as an end-of-stream marker carries them."""
    return {c.name: np.empty((0, *c.dtype.shape), dtype=c.dtype.base) for c in COLUMNS}


def decode_packet_batch(data: bytes) -> PacketBatch:
    """Decode and check a message of the ``packets`` topic.

    The check makes the columns safe for compiled kernels, which do not look at bounds.

    Raises:
        CodecError: not a packet batch, columns of unequal length, or values out of range.
    """
    record = decode("PacketBatch", data)
    columns = unpack(record, COLUMNS)
    _check(record, columns)
    return PacketBatch(
        probe=record["probe"],
        observation_point=record["observation_point"],
        epoch=record["epoch"],
        partition=record["partition"],
        partitions=record["partitions"],
        sequence=record["sequence"],
        end_of_stream=record["end_of_stream"],
        replayed=record["replayed"],
        sent_time_ns=record["sent_time_ns"],
        columns=columns,
    )


def _check(record: dict[str, Any], columns: dict[str, Array]) -> None:
    packets, flows = record["packet_count"], record["flow_count"]
    if packets > MAX_PACKETS or flows > packets:
        raise CodecError(f"a batch of {packets} packets and {flows} flows; at most {MAX_PACKETS} packets")
    if not record["probe"]:
        raise CodecError("a batch without the name of its probe")
    if not 0 <= record["partition"] < record["partitions"] or record["sequence"] < 0:
        raise CodecError(
            f"partition {record['partition']} of {record['partitions']}, sequence {record['sequence']}"
        )
    fault = FAULTS[
        _find_fault(
            flows,
            columns["flow_index"],
            columns["direction"],
            columns["time_ns"],
            columns["ip_version"],
        )
    ]
    if fault:
        raise CodecError(fault)


@njit(cache=True, nogil=True)
def _find_fault(
    flows: int,
    flow_index: NDArray[np.uint16],
    direction: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    ip_version: NDArray[np.uint8],
) -> int:
    """Return the place in FAULTS of the first thing wrong with the values, 0 if nothing is."""
    index, either, first, last = 0, 0, np.int64(0), np.int64(0)
    for i in range(len(time_ns)):
        index = max(index, flow_index[i])
        either |= direction[i]
        first, last = min(first, time_ns[i]), max(last, time_ns[i])
    if len(time_ns) and index >= flows:
        return 1
    if either > 1:
        return 2
    if first < 0:
        return 3
    if last > LATEST_NS:
        return 4
    other = False
    for version in ip_version:
        other |= (version != 4) & (version != 6)
    return 5 if other else 0
