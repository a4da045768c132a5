"""Messages to rows: Arrow record batches by date, probe and service.

Feature batches stay columns all the way. Any other record is one row, and its Avro schema says which columns there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from flowgauge.recording.layout import Key, checked
from flowgauge.recording.services import check_services, services_of
from flowgauge.recording.text import address_array, flow_id_array
from schemas.codec import decode, schema
from schemas.columns import Array
from schemas.errors import CodecError
from schemas.features import (
    COLUMNS,
    ROW_COLUMNS,
    FeatureBatch,
    FlowEndReason,
    ServiceFoundBy,
    decode_feature_batch,
)

DAY_NS = 24 * 3600 * 10**9
TIMES = {
    "Prediction": "event_time_ns",
    "Label": "start_ns",
    "CostTelemetry": "time_ns",
    "FlowPath": "start_ns",
}
"""The time that gives a record its date, for schemas that have no ``time_ns`` or other times beside it."""

Refuse = Callable[["Message", str], None]
"""Told each message that cannot be used, and why."""


class Message(NamedTuple):
    """What was read: offset, key and value."""

    offset: int
    key: bytes | None
    value: bytes


class Shape(Protocol):
    """How the messages of one schema become rows."""

    def batches(self, partition: int, messages: Sequence[Message], refuse: Refuse) -> list[tuple[Key, Any]]:
        """Return record batches, rows in the order of their offsets; every message is in them or refused."""


def shape_of(schema_name: str) -> Shape | None:
    """Return how messages of a schema become rows; None for those that are not recorded.

    Not recorded are packets, and whatever carries octets that are no columns: state, payloads, dead letters.
    """
    if schema_name == "FeatureBatch":
        return FeatureShape()
    fields = schema(schema_name)["fields"]
    if any("bytes" in str(field["type"]) for field in fields):
        return None
    time = TIMES.get(schema_name, "time_ns")
    return RecordShape(schema_name, time) if any(f["name"] == time for f in fields) else None


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))


class RecordShape:
    """One Avro record a message: one row, with the record's fields as columns."""

    def __init__(self, name: str, time: str) -> None:
        self._name, self._time = name, time
        fields = [f for f in schema(name)["fields"] if f["name"] not in ("probe", "service")]
        self._types = {f["name"]: _arrow_type(f["type"]) for f in fields}

    def batches(self, partition: int, messages: Sequence[Message], refuse: Refuse) -> list[tuple[Key, Any]]:
        """Return one record batch per date, probe and service."""
        found: dict[Key, list[tuple[int, dict[str, Any]]]] = {}
        for message in messages:
            try:
                record = decode(self._name, message.value)
                found.setdefault(self._key(record), []).append((message.offset, record))
            except CodecError as error:
                refuse(message, str(error))
        return [(key, self._batch(partition, rows)) for key, rows in found.items()]

    def _key(self, record: Mapping[str, Any]) -> Key:
        probe, service = (checked(str(record.get(name) or ""), name) for name in ("probe", "service"))
        return Key(_date(record[self._time] // DAY_NS), probe, service)

    def _batch(self, partition: int, rows: Sequence[tuple[int, dict[str, Any]]]) -> Any:
        columns: dict[str, Any] = {}
        for name, kind in self._types.items():
            values = [record[name] for _, record in rows]
            if pa.types.is_map(kind):
                values = [list(value.items()) for value in values]
            columns[name] = pa.array(values, type=kind)
        columns["kafka_partition"] = pa.array(np.full(len(rows), partition, dtype=np.int32))
        columns["kafka_offset"] = pa.array([offset for offset, _ in rows], type=pa.int64())
        return pa.record_batch(list(columns.values()), names=list(columns))


def _arrow_type(kind: Any) -> Any:
    plain = {
        "string": pa.string(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(),
        "double": pa.float64(), "boolean": pa.bool_(),
    }  # fmt: skip
    if isinstance(kind, list):
        return _arrow_type(next(part for part in kind if part != "null"))
    if isinstance(kind, dict) and kind["type"] == "map":
        return pa.map_(pa.string(), _arrow_type(kind["values"]))
    if isinstance(kind, dict) and kind["type"] == "array":
        return pa.list_(_arrow_type(kind["items"]))
    return plain[kind["type"] if isinstance(kind, dict) else kind]


_REASONS = pa.array([reason.text for reason in FlowEndReason])
_FOUND_BY = pa.array([way.text for way in ServiceFoundBy])
_NOT_COPIED = ("flow_id", "source_address", "destination_address", "flow_end_reason")
_OF_BATCH = ("replayed", "probe_time_ns", "flows_received_time_ns", "flows_sent_time_ns")


class FeatureShape:
    """Feature batches: a row a flow, the features as columns by their names."""

    def batches(self, partition: int, messages: Sequence[Message], refuse: Refuse) -> list[tuple[Key, Any]]:
        """Return one record batch per date, probe, service and set of features."""
        by_names: dict[tuple[str, ...], list[tuple[int, FeatureBatch]]] = {}
        for message in messages:
            try:
                batch = decode_feature_batch(message.value)
                _check(batch)
            except CodecError as error:
                refuse(message, str(error))
                continue
            if batch.rows:
                by_names.setdefault(batch.feature_names, []).append((message.offset, batch))
        return [made for found in by_names.values() for made in _split(partition, found)]


def _check(batch: FeatureBatch) -> None:
    """Raise CodecError for names that cannot be columns or folders."""
    checked(batch.probe, "probe")
    check_services(batch)
    if len(set(batch.feature_names)) != len(batch.feature_names):
        raise CodecError("two features of one name")


_ROW_NAMES = frozenset({"features", *(c.name for c in ROW_COLUMNS)})


def _split(partition: int, found: Sequence[tuple[int, FeatureBatch]]) -> Iterable[tuple[Key, Any]]:
    """Yield the rows of batches with the same features, by date, probe and service."""
    batches = [batch for _, batch in found]
    columns: dict[str, Array] = {
        c.name: np.concatenate([batch.columns[c.name] for batch in batches]) for c in COLUMNS
    }
    services = services_of(batches)
    columns |= {
        "service": services.service,
        "server_name": services.server_name,
        "found_by": services.found_by,
    }
    columns["batch"] = np.repeat(np.arange(len(batches)), [batch.rows for batch in batches])
    probes = sorted({batch.probe for batch in batches})
    probe = np.array([probes.index(batch.probe) for batch in batches])[columns["batch"]]
    folder = np.stack([columns["end_ns"] // DAY_NS, probe, services.service])
    for (day, which, service), rows in _groups(folder):
        names = (checked(probes[which], "probe"), services.texts[service], batches[0].feature_names)
        taken = columns if rows is None else {name: column[rows] for name, column in columns.items()}
        yield Key(_date(day), *names), _feature_batch(partition, found, taken, services.texts)


def _groups(folder: Array) -> Iterable[tuple[list[int], Array | None]]:
    """Yield each distinct column and where it stands, in order; None where all columns are alike."""
    if (folder == folder[:, :1]).all():
        yield folder[:, 0].tolist(), None
        return
    distinct, which = np.unique(folder, axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(which.ravel()))
    for i, rows in enumerate(np.split(order, ends[:-1])):
        yield distinct[:, i].tolist(), rows


def _feature_batch(
    partition: int,
    found: Sequence[tuple[int, FeatureBatch]],
    columns: Mapping[str, Array],
    texts: Sequence[str],
) -> Any:
    batches, of_batch = [batch for _, batch in found], columns["batch"]
    version = columns["ip_version"]
    out: dict[str, Any] = {
        "flow_id": flow_id_array(columns["flow_id"]),
        "representation": pa.array([batch.representation for batch in batches]).take(pa.array(of_batch)),
        "source_address": address_array(columns["source_address"], version),
        "destination_address": address_array(columns["destination_address"], version),
        "flow_end_reason": _REASONS.take(pa.array(columns["flow_end_reason"])),
        "service_found_by": _FOUND_BY.take(pa.array(columns["found_by"])),
        "server_name": pa.array(texts).take(pa.array(columns["server_name"])),
    }
    out |= {c.name: pa.array(columns[c.name]) for c in ROW_COLUMNS if c.name not in _NOT_COPIED}
    for name in _OF_BATCH:
        out[name] = pa.array(np.array([getattr(batch, name) for batch in batches])[of_batch])
    out["kafka_partition"] = pa.array(np.full(len(of_batch), partition, dtype=np.int32))
    out["kafka_offset"] = pa.array(np.array([offset for offset, _ in found], dtype=np.int64)[of_batch])
    matrix = np.ascontiguousarray(columns["features"].T)
    for name, values in zip(batches[0].feature_names, matrix, strict=True):
        # What is not a number is null, so that averages in SQL pass over it.
        out[f"feature_{name}" if name in out else name] = pa.array(values, from_pandas=True)
    return pa.record_batch(list(out.values()), names=list(out))
