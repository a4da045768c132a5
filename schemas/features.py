"""Feature batches: rows of one representation, as the flows agent emits and models read them.

Their columns travel packed (``schemas.packing``), in the order of ``PACKED``, so that a row takes the bits its values
need. Three of them are made smaller first: ``start_ns`` and ``end_ns`` count from ``interval_start_ns``, and an address
is its first four octets as a big-endian number. Behind these columns follow, for the rows that are not of IPv4 only,
the other twelve octets of both addresses as three such numbers each, and then the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from schemas.codec import decode, encode, schema
from schemas.columns import Array, columns_of, unpack
from schemas.errors import CodecError
from schemas.packing import (
    Integers,
    numbers_of,
    octets_of,
    pack_floats,
    pack_integers,
    unpack_floats,
    unpack_integers,
)

_DECLARED = columns_of(schema("FeatureBatch"))
SERVICE_COLUMNS = tuple(c for c in _DECLARED if c.rows in ("service_rows", "texts_octets"))
"""Columns of rows where services are named in the settings; others lack them."""
COLUMNS = tuple(c for c in _DECLARED if c not in SERVICE_COLUMNS)
ROW_COLUMNS = tuple(c for c in COLUMNS if c.width_field is None)
_SERVICE_ROWS = tuple(c for c in SERVICE_COLUMNS if c.rows == "service_rows")
PACKED = tuple(c.name for c in (*ROW_COLUMNS, *_SERVICE_ROWS))
"""Columns of integers in the order in which they are packed; the last three where services are named."""
_PACKED_ELEMENTS = tuple((c.name, c.element) for c in (*ROW_COLUMNS, *_SERVICE_ROWS))
_ADDRESSES = ("source_address", "destination_address")
_FROM_INTERVAL = ("start_ns", "end_ns")
_FROM_INTERVAL_AT = [PACKED.index(name) for name in _FROM_INTERVAL]
_INTERVAL_AT, _IP_VERSION_AT = PACKED.index("interval_start_ns"), PACKED.index("ip_version")
_WORDS = 3
"""Numbers of four octets in an IPv6 address beyond the first."""


class FlowEndReason(IntEnum):
    """Why a flow ended: IPFIX flowEndReason (element 136), and 0 while it goes on."""

    NONE = 0
    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5

    @property
    def text(self) -> str:
        """Return the reason as IPFIX words it, for people; empty while the flow goes on."""
        return "" if self is FlowEndReason.NONE else self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class FeatureBatch:
    """Rows of one representation; ``columns`` holds ROW_COLUMNS and ``features`` (rows, names) by name."""

    probe: str
    representation: str
    partition: int
    feature_names: tuple[str, ...]
    columns: dict[str, Array]
    source_epoch: int = 0
    source_sequence: int = 0
    probe_time_ns: int = 0
    flows_received_time_ns: int = 0
    flows_sent_time_ns: int = 0
    replayed: bool = False

    @property
    def rows(self) -> int:
        """Return how many rows the batch holds."""
        return len(self.columns["flow_id"])

    def encode(self) -> bytes:
        """Return the batch as a message for a ``features.…`` topic."""
        return encode(
            "FeatureBatch",
            {
                "probe": self.probe,
                "representation": self.representation,
                "partition": self.partition,
                "source_epoch": self.source_epoch,
                "source_sequence": self.source_sequence,
                "replayed": self.replayed,
                "probe_time_ns": self.probe_time_ns,
                "flows_received_time_ns": self.flows_received_time_ns,
                "flows_sent_time_ns": self.flows_sent_time_ns,
                "feature_names": list(self.feature_names),
                "feature_count": len(self.feature_names),
                "row_count": self.rows,
                **_EMPTY,
                **self._services(),
                **_pack_columns(self.columns),
            },
        )

    def _services(self) -> dict[str, Any]:
        if "service" not in self.columns:
            return {"service_rows": 0, "texts_octets": 0}
        texts = np.ascontiguousarray(self.columns["texts"], np.uint8)
        return {"service_rows": self.rows, "texts_octets": len(texts), "texts": texts.tobytes()}


_EMPTY = {c.name: b"" for c in _DECLARED}


_NONE_LONGER = (np.zeros((len(_ADDRESSES) * _WORDS, 3), np.int64), b"")
"""What ``pack_integers`` gives where all rows are of IPv4."""


def _pack_columns(columns: dict[str, Array]) -> dict[str, Any]:
    """Return the fields that hold all columns but ``texts``."""
    rows = len(columns["flow_id"])
    if rows == 0:
        return {"packing": [], "packed": b""}
    names = PACKED if "service" in columns else PACKED[: len(ROW_COLUMNS)]
    integers: Integers = np.empty((len(names), rows), np.int64)
    addresses = [np.ascontiguousarray(columns[name], np.uint8).view(">u4") for name in _ADDRESSES]
    for i, name in enumerate(names):
        if name in _ADDRESSES:
            integers[i] = addresses[_ADDRESSES.index(name)][:, 0]
        else:
            column = columns[name]
            integers[i] = column.view(np.int64) if column.dtype.itemsize == 8 else column
            if name in _FROM_INTERVAL:
                integers[i] -= columns["interval_start_ns"]
    longer = columns["ip_version"] != 4
    if longer.any():
        words = np.concatenate([address[longer, 1:].T for address in addresses]).astype(np.int64)
        further = pack_integers(words)
    else:
        further = _NONE_LONGER
    packed = (pack_integers(integers), further, pack_floats(columns["features"]))
    numbers = np.concatenate([numbers.ravel() for numbers, _ in packed])
    return {"packing": numbers.tolist(), "packed": b"".join(octets for _, octets in packed)}


def _unpack_columns(record: dict[str, Any]) -> dict[str, Array]:
    """Return all columns but ``texts``; raises CodecError where they are not packed as they must be."""
    numbers, octets, rows = numbers_of(record["packing"]), record["packed"], record["row_count"]
    own = len(PACKED) if record["service_rows"] else len(ROW_COLUMNS)
    words = len(_ADDRESSES) * _WORDS
    if len(numbers) != own + words + record["feature_count"]:
        raise CodecError(f"{len(numbers)} packed columns for {record['feature_count']} features")
    first = octets_of(numbers[:own], rows)
    if len(octets) < first:
        raise _wrong_octets(octets, numbers, rows)
    integers = unpack_integers(numbers[:own], octets[:first], rows)
    integers[_FROM_INTERVAL_AT, :] += integers[_INTERVAL_AT]
    longer = integers[_IP_VERSION_AT] != 4
    count = int(np.count_nonzero(longer))
    second = first + octets_of(numbers[own : own + words], count)
    if len(octets) != second + octets_of(numbers[own + words :], rows):
        raise _wrong_octets(octets, numbers, rows)
    further = unpack_integers(numbers[own : own + words], octets[first:second], count) if count else None
    columns: dict[str, Array] = {}
    for column, (name, element) in zip(integers, _PACKED_ELEMENTS[:own], strict=True):
        if name in _ADDRESSES:
            at = _WORDS * _ADDRESSES.index(name)
            columns[name] = _addresses(
                column, further if further is None else further[at : at + _WORDS], longer
            )
        else:
            columns[name] = column.astype(element)
    columns["features"] = unpack_floats(numbers[own + words :], octets[second:], rows)
    return columns


def _wrong_octets(octets: bytes, numbers: Integers, rows: int) -> CodecError:
    return CodecError(f"{len(octets)} bytes are not {len(numbers)} packed columns of {rows} rows")


def _addresses(first: Array, further: Integers | None, longer: Array) -> Array:
    """Return addresses, (rows, 16) uint8, of their first number and, where they are longer, the three others."""
    words = np.zeros((len(first), 1 + _WORDS), ">u4")
    words[:, 0] = first
    if further is not None:
        words[longer, 1:] = further.T
    return words.view(np.uint8)


class ServiceFoundBy(IntEnum):
    """How the service of a flow was found."""

    NOTHING = 0
    DNS = 1
    TLS_SNI = 2
    QUIC_SNI = 3
    HTTP_HOST = 4
    PREFIX = 5
    PORT = 6

    @property
    def text(self) -> str:
        """Return the way as records spell it; empty where the service is unknown."""
        return self.name.lower() if self else ""


def decode_feature_batch(data: bytes) -> FeatureBatch:
    """Decode and check a message of a ``features.…`` topic.

    Raises:
        CodecError: not a feature batch, or columns of unequal length.
    """
    record = decode("FeatureBatch", data)
    if record["feature_count"] != len(record["feature_names"]):
        raise CodecError(f"{record['feature_count']} features, but {len(record['feature_names'])} names")
    columns = feature_columns(record)
    return FeatureBatch(
        probe=record["probe"],
        representation=record["representation"],
        partition=record["partition"],
        feature_names=tuple(record["feature_names"]),
        columns=columns,
        source_epoch=record["source_epoch"],
        source_sequence=record["source_sequence"],
        probe_time_ns=record["probe_time_ns"],
        flows_received_time_ns=record["flows_received_time_ns"],
        flows_sent_time_ns=record["flows_sent_time_ns"],
        replayed=record["replayed"],
    )


def feature_columns(record: dict[str, Any]) -> dict[str, Array]:
    """Return the columns of a feature batch's record by name, whether they are packed in it or plain.

    Raises:
        CodecError: columns of unequal length, or values that cannot be.
    """
    columns = _unpack_columns(record) if record["packing"] else unpack(record, COLUMNS)
    if len(columns["flow_end_reason"]) and int(columns["flow_end_reason"].max()) > max(FlowEndReason):
        raise CodecError(f"a flow end reason of {int(columns['flow_end_reason'].max())}")
    if record["service_rows"]:
        columns.update(unpack(record, SERVICE_COLUMNS[:1] if record["packing"] else SERVICE_COLUMNS))
        _check_services(record, columns)
    return columns


def _check_services(record: dict[str, Any], columns: dict[str, Array]) -> None:
    if record["service_rows"] != record["row_count"]:
        raise CodecError(f"services of {record['service_rows']} rows for {record['row_count']} rows")
    text = columns["texts"].tobytes()
    if not text.isascii():
        raise CodecError("names of services that are no ASCII")
    if max(int(columns["service"].max()), int(columns["server_name"].max())) > text.count(b"\n"):
        raise CodecError("a service or server without a name")
    if int(columns["service_found_by"].max()) > max(ServiceFoundBy):
        raise CodecError("a service found in an unknown way")
