"""Feature batches: rows of one representation, as the flows agent emits and models read them.

Their columns travel packed (``schemas.packed_rows``), so that a row takes the bits its values need.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from schemas.codec import decode_arrays, encode, schema
from schemas.columns import Array, columns_of, unpack
from schemas.errors import CodecError
from schemas.packed_rows import ROW_COLUMNS, pack_rows, unpack_rows
from schemas.packing import numbers_of

_DECLARED = columns_of(schema("FeatureBatch"))
SERVICE_COLUMNS = tuple(c for c in _DECLARED if c.rows in ("service_rows", "texts_octets"))
"""Columns of rows where services are named in the settings; others lack them."""
COLUMNS = tuple(c for c in _DECLARED if c not in SERVICE_COLUMNS)
__all__ = [
    "COLUMNS",
    "ROW_COLUMNS",
    "SERVICE_COLUMNS",
    "FeatureBatch",
    "FlowEndReason",
    "ServiceFoundBy",
    "decode_feature_batch",
    "feature_columns",
    "warm_up",
]


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

    def encode(self, flows_sent_time_ns: int | None = None) -> bytes:
        """Return the batch as a message for a ``features.…`` topic, with another time of sending where one is given."""
        sent_ns = self.flows_sent_time_ns if flows_sent_time_ns is None else flows_sent_time_ns
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
                "flows_sent_time_ns": sent_ns,
                "feature_names": self.feature_names,
                "feature_count": len(self.feature_names),
                "row_count": self.rows,
                **_EMPTY,
                **self._services(),
                **_packed(self.columns),
            },
        )

    def _services(self) -> dict[str, Any]:
        if "service" not in self.columns:
            return {"service_rows": 0, "texts_octets": 0}
        texts = np.ascontiguousarray(self.columns["texts"], np.uint8)
        return {"service_rows": self.rows, "texts_octets": len(texts), "texts": texts.tobytes()}


_EMPTY = {c.name: b"" for c in _DECLARED}
_NO_NUMBERS: Array = np.zeros(0, np.int64)
_LAST_REASON = max(FlowEndReason)


def _packed(columns: dict[str, Array]) -> dict[str, Any]:
    """Return the fields that hold all columns but ``texts``."""
    numbers, octets = pack_rows(columns) if len(columns["flow_id"]) else (_NO_NUMBERS, b"")
    return {"packing": numbers, "packed": octets}


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
    record = decode_arrays("FeatureBatch", data)
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


def warm_up() -> None:
    """Have what packs and unpacks batches compiled, or loaded, before a first message waits for it."""
    columns: dict[str, Array] = {c.name: np.zeros((1, *c.width), c.element) for c in ROW_COLUMNS}
    columns["features"] = np.zeros((1, 1), np.float32)
    decode_feature_batch(FeatureBatch("warm-up", "warm-up", 0, ("feature",), columns).encode())


def feature_columns(record: dict[str, Any]) -> dict[str, Array]:
    """Return the columns of a feature batch's record by name, whether they are packed in it or plain.

    Raises:
        CodecError: columns of unequal length, or values that cannot be.
    """
    if len(record["packing"]):
        columns, reason = unpack_rows(
            numbers_of(record["packing"]),
            record["packed"],
            record["row_count"],
            record["feature_count"],
            record["service_rows"] != 0,
        )
    else:
        columns = unpack(record, COLUMNS)
        reason = int(columns["flow_end_reason"].max(initial=0))
    if reason > _LAST_REASON:
        raise CodecError(f"a flow end reason of {reason}")
    if record["service_rows"]:
        columns.update(unpack(record, SERVICE_COLUMNS[:1] if len(record["packing"]) else SERVICE_COLUMNS))
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
