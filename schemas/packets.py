"""Packet batches: what a probe puts on the bus."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.codec import decode, encode, schema
from schemas.columns import Array, Block, columns_of, pack, unpack
from schemas.compiled import compiled
from schemas.errors import CodecError
from schemas.place import checked_place, place_of

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

MAX_HEAD_OCTETS = 1500
MAX_HEADS_BYTES = 600_000
"""Most octets of all heads of a batch, so that the message stays below the broker's 1 MiB."""

_DECLARED = columns_of(schema("PacketBatch"))
NAME_COLUMNS = tuple(c for c in _DECLARED if c.rows in ("name_count", "names_octets"))
"""Columns of a batch that tells names of flows; others lack them."""
ALL_COLUMNS = tuple(c for c in _DECLARED if c not in NAME_COLUMNS)
FLOW_COLUMNS = tuple(c for c in ALL_COLUMNS if c.rows == "flow_count")
PACKET_COLUMNS = tuple(c for c in ALL_COLUMNS if c.rows == "packet_count")
COLUMNS = FLOW_COLUMNS + PACKET_COLUMNS
"""What every batch has."""
EXTRA_COLUMNS = tuple(c for c in ALL_COLUMNS if c not in COLUMNS)
"""What a probe sends only where it is asked to; without rows where it is not."""


class Extra(NamedTuple):
    """What a probe sends, or a feature needs, beyond the columns that every batch has."""

    tcp: bool = False
    """TCP sequence and acknowledgment numbers of every packet."""
    head_packets: int = 0
    """Of how many first packets of each flow the head is sent."""
    head_octets: int = 0
    """Most octets of a head, from the IP header on."""
    direction: bool = False
    """Which way every packet crossed the observation point."""

    def with_(self, other: Extra) -> Extra:
        """Return what serves both."""
        return Extra(*(max(mine, theirs) for mine, theirs in zip(self, other, strict=True)))  # type: ignore[arg-type]

    def lacks(self, needed: Extra) -> list[str]:
        """Return the names of the columns that are needed and not there."""
        heads = self.head_packets >= needed.head_packets and self.head_octets >= needed.head_octets
        return ["tcp"] * (needed.tcp and not self.tcp) + ["head"] * (not heads)


NO_EXTRA = Extra()

INGRESS, EGRESS, NOT_KNOWN = 0, 1, 255
"""Values of ``flow_direction``."""

_NAMES = re.compile(rb"[a-z0-9._-]+(\n[a-z0-9._-]+)*")


class NameSource(IntEnum):
    """Where the name of a flow was found."""

    DNS = 1
    TLS_SNI = 2
    QUIC_SNI = 3
    HTTP_HOST = 4

    @property
    def text(self) -> str:
        """Return the source as records spell it."""
        return self.name.lower()


def join_names(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return names as the column ``names`` holds them."""
    return np.frombuffer("\n".join(names).encode("ascii"), np.uint8)


def split_names(column: Array) -> list[str]:
    """Return the names that a column ``names`` holds."""
    text = column.tobytes().decode("ascii")
    return text.split("\n") if text else []


@dataclass(frozen=True)
class PacketBatch:
    """Packets of one partition's flows; ``columns`` holds COLUMNS by name, and EXTRA_COLUMNS if they are sent.

    Flow columns have one row per distinct five-tuple (addresses are (rows, 16) uint8), packet columns one row
    per packet in the order seen. Where names of flows are told, NAME_COLUMNS are there too.
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
    head_packets: int = 0
    head_octets: int = 0

    @property
    def extra(self) -> Extra:
        """Return what the batch holds beyond the columns that every batch has."""
        columns = self.columns
        has_tcp = len(columns.get("tcp_sequence", ())) > 0
        has_direction = len(columns.get("flow_direction", ())) > 0
        return Extra(has_tcp, self.head_packets, self.head_octets, has_direction)

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
                **place_of(self),
                "flow_count": self.flows,
                "packet_count": self.packets,
                "head_packets": self.head_packets,
                "head_octets": self.head_octets,
                **pack(self.columns, COLUMNS),
                **self._extra(),
                **self._names(),
            },
        )

    def _extra(self) -> dict[str, Any]:
        columns = self.columns
        if not any(len(columns.get(name, ())) for name in ("tcp_sequence", "head_packet", "flow_direction")):
            # Most batches: packing empty columns one by one would cost a fifth of the encoding.
            return _NO_EXTRA_FIELDS
        columns = with_extra(columns)
        counts = {
            "tcp_count": len(columns["tcp_sequence"]),
            "flow_direction_count": len(columns["flow_direction"]),
            "head_count": len(columns["head_packet"]),
            "head_bytes": len(columns["head"]),
        }
        return {**counts, **pack(columns, EXTRA_COLUMNS)}

    def _names(self) -> dict[str, Any]:
        if "names" not in self.columns:
            return _NO_NAME_FIELDS
        counts = {
            "name_count": len(self.columns["name_packet"]),
            "names_octets": len(self.columns["names"]),
        }
        return {**counts, **pack(self.columns, NAME_COLUMNS)}

    def sealed(self, sent_time_ns: int) -> PacketBatch:
        """Return the batch with the wall clock at which it leaves the probe."""
        return replace(self, sent_time_ns=sent_time_ns)


def empty_columns() -> dict[str, Array]:
    """Return the columns of a batch without packets, as an end-of-stream marker carries them."""
    return {c.name: np.empty((0, *c.dtype.shape), dtype=c.dtype.base) for c in COLUMNS}


_NO_EXTRA_FIELDS: dict[str, Any] = {
    "tcp_count": 0,
    "flow_direction_count": 0,
    "head_count": 0,
    "head_bytes": 0,
    **{c.name: b"" for c in EXTRA_COLUMNS},
}
_NO_NAME_FIELDS: dict[str, Any] = {
    "name_count": 0,
    "names_octets": 0,
    **{c.name: b"" for c in NAME_COLUMNS},
}
ABSENT = unpack(_NO_EXTRA_FIELDS, EXTRA_COLUMNS)
"""The columns that a probe does not send, empty."""
_FLOWS, _PACKETS = Block(FLOW_COLUMNS), Block(PACKET_COLUMNS)
_extra_fields = itemgetter(*_NO_EXTRA_FIELDS)


def _has_no_extra(record: Mapping[str, Any]) -> bool:
    return not any(_extra_fields(record))


def with_extra(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Return all columns of a batch: those that its probe does not send are empty."""
    return {**ABSENT, **columns}


def decode_packet_batch(data: bytes) -> PacketBatch:
    """Decode and check a message of the ``packets`` topic.

    The check makes the columns safe for compiled kernels, which do not look at bounds.

    Raises:
        CodecError: not a packet batch, columns of unequal length, or values out of range.
    """
    record = decode("PacketBatch", data)
    columns = _FLOWS.unpack(record, record["flow_count"])
    columns.update(_PACKETS.unpack(record, record["packet_count"]))
    _check(record, columns)
    columns.update(ABSENT if _has_no_extra(record) else unpack(record, EXTRA_COLUMNS))
    _check_extra(record, columns)
    if record["name_count"] or record["names_octets"]:
        names = unpack(record, NAME_COLUMNS)
        _check_names(names, record["packet_count"])
        columns.update(names)
    return PacketBatch(
        **checked_place(record),
        columns=columns,
        head_packets=record["head_packets"],
        head_octets=record["head_octets"],
    )


def _check(record: dict[str, Any], columns: dict[str, Array]) -> None:
    packets, flows = record["packet_count"], record["flow_count"]
    if packets > MAX_PACKETS or flows > packets:
        raise CodecError(f"a batch of {packets} packets and {flows} flows; at most {MAX_PACKETS} packets")
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


def _check_extra(record: dict[str, Any], columns: dict[str, Array]) -> None:
    if record["tcp_count"] not in (0, record["packet_count"]):
        raise CodecError(f"TCP columns of {record['tcp_count']} rows for {record['packet_count']} packets")
    if record["flow_direction_count"] not in (0, record["packet_count"]):
        raise CodecError(f"{record['flow_direction_count']} directions for {record['packet_count']} packets")
    if record["head_packets"] < 0 or not 0 <= record["head_octets"] <= MAX_HEAD_OCTETS:
        raise CodecError(f"heads of {record['head_octets']} octets of {record['head_packets']} packets")
    places = columns["head_packet"]
    if len(places):
        if places[-1] >= record["packet_count"] or (places[1:] <= places[:-1]).any():
            raise CodecError("heads that are not in the order of the packets")
        lengths = columns["head_length"]
        if lengths.max() > record["head_octets"]:
            raise CodecError("a head longer than the batch says")
        if int(lengths.sum(dtype=np.int64)) != record["head_bytes"]:
            raise CodecError("heads whose lengths do not add up")
    elif record["head_bytes"]:
        raise CodecError("octets of heads that are not there")


def _check_names(columns: dict[str, Array], packets: int) -> None:
    packet, index, source = columns["name_packet"], columns["name_index"], columns["name_source"]
    text = columns["names"].tobytes()
    if not len(packet) or not _NAMES.fullmatch(text):
        raise CodecError("names that are no host names")
    if int(packet[-1]) >= packets or (np.diff(packet.astype(np.int64)) < 0).any():
        raise CodecError("a name for a packet that is not in the batch")
    if int(index.max()) > text.count(b"\n"):
        raise CodecError("a packet with a name that is not in the batch")
    if int(source.min()) < min(NameSource) or int(source.max()) > max(NameSource):
        raise CodecError("a name from an unknown source")


@compiled
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
