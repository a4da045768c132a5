"""One message of each schema, with meaningful content, and records as text that a person can review."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.codec import NAMES, encode, schema
from schemas.columns import columns_of, unpack
from schemas.features import ROW_COLUMNS, FeatureBatch, feature_columns
from schemas.packets import join_names
from schemas.payloads import PayloadBatch
from tests.streams.made import FIN, FLOWS, SYN, Made, batch

TIME_NS = 1_700_000_000_123_456_789


def packet_batch() -> bytes:
    packets = [
        Made(TIME_NS, FLOWS[0], 0, 60, SYN, 60, 64_240, 64),
        Made(TIME_NS + 1_500_000, FLOWS[0], 1, 60, SYN | 16, 60, 65_160, 57),
        Made(TIME_NS + 2_000_000, FLOWS[3], 1, 75, 0, 28, 0, 128),
        Made(TIME_NS + 3_000_000, FLOWS[2], 0, 2**32 - 1, FIN, 80, 1, 255),
    ]
    made = batch(packets, 41, probe="gateway-ö", epoch=TIME_NS - 10**9, partition=3, observation_point="eth0")
    made.columns.update(
        names=join_names(["video.example", "www.example.org"]),
        name_packet=np.array([1, 1, 3], "<u2"),
        name_index=np.array([1, 0, 1], "<u2"),
        name_source=np.array([1, 2, 1], "u1"),
    )
    return made.sealed(TIME_NS + 5_000_000).encode()


def feature_batch() -> bytes:
    columns: dict[str, Any] = {
        c.name: np.arange(2 * c.dtype.itemsize // c.element.itemsize, dtype=c.element).reshape(2, *c.width)
        for c in ROW_COLUMNS
    }
    columns["flow_id"] = np.array([0xFEDCBA9876543210, 7], "<u8")
    columns["flow_end_reason"] = np.array([0, 3], "u1")
    columns["texts"] = join_names(["", "video", "www.example.org"])
    columns["service"] = np.array([1, 0], "<u2")
    columns["service_found_by"] = np.array([2, 0], "u1")
    columns["server_name"] = np.array([2, 0], "<u2")
    columns["features"] = np.array([[1.5, -2.25, 0.0], [3e38, 1e-30, 40.0]], "<f4")
    return FeatureBatch(
        "gateway-ö", "early", 3, ("octets_1", "direction_1", "gap_us_2"), columns,
        source_epoch=TIME_NS, source_sequence=41, probe_time_ns=TIME_NS + 1,
        flows_received_time_ns=TIME_NS + 2, flows_sent_time_ns=TIME_NS + 3, replayed=True,
    ).encode()  # fmt: skip


def payload_batch() -> bytes:
    """Two flows; the second packet's octets are all zeros, so none is sent."""
    columns: dict[str, Any] = {
        "flow_id": np.array([0xFEDCBA9876543210, 0xFEDC000000000007], "<u8"),
        "start_ns": np.array([TIME_NS, TIME_NS + 7], "<i8"),
        "address_a": np.array([list(FLOWS[f].address("a")) for f in (0, 2)], "u1"),
        "address_b": np.array([list(FLOWS[f].address("b")) for f in (0, 2)], "u1"),
        "port_a": np.array([40000, 50000], "<u2"),
        "port_b": np.array([443, 22], "<u2"),
        "protocol": np.array([6, 6], "u1"),
        "ip_version": np.array([4, 6], "u1"),
        "first_direction": np.array([0, 1], "u1"),
        "flow_index": np.array([0, 1, 0], "<u2"),
        "time_ns": np.array([TIME_NS + 2, TIME_NS + 7, TIME_NS + 9], "<i8"),
        "packet_number": np.array([4, 1, 2**32 - 1], "<u4"),
        "octets": np.array([37, 40, 65_515], "<u4"),
        "transport_octets": np.array([20, 20, 32], "<u2"),
        "length": np.array([17, 0, 3], "<u2"),
        "direction": np.array([0, 1, 1], "u1"),
        "handshake": np.array([1, 0, 0], "u1"),
        "payload": np.frombuffer(b"\x16\x03\x01" + bytes(range(14)) + b"\0\0\xff", "u1"),
    }
    return PayloadBatch(
        "gateway-ö", TIME_NS - 10**9, 3, 4, 41, TIME_NS + 5_000_000, columns, first_octets=1480,
        masked_octets=20, observation_point="eth0", replayed=True,
    ).encode()  # fmt: skip


RECORDS: dict[str, dict[str, Any]] = {
    "Prediction": {
        "schema_version": 2,
        "prediction_id": "00000000deadbeef",
        "flow_id": "fedcba9876543210",
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "probe": "gateway-ö",
        "source_address": "128.232.110.120",
        "destination_address": "66.35.250.204",
        "source_port": 34855,
        "destination_port": 80,
        "protocol": 6,
        "start_ns": TIME_NS,
        "event_time_ns": TIME_NS + 1_000_000,
        "representation": "early",
        "depth": 8,
        "flow_end_reason": 0,
        "label": "web browsing",
        "confidence": 0.875,
        "model": "river-forest",
        "model_version": "2024-01-01.3",
        "replayed": True,
        "probe_time_ns": TIME_NS + 2_000_000,
        "bus_to_flows_ns": 700_000,
        "flows_ns": 90_000,
        "bus_to_model_ns": 1_200_000,
        "model_ns": 450_000,
        "final": False,
        "tier": 2,
        "ood": 1.25,
    },
    "PacketFields": {
        "schema_version": 1,
        "probe": "gateway-ö",
        "observation_point": "tshark://eth0",
        "time_ns": TIME_NS,
        "source_address": "128.232.110.120",
        "destination_address": "66.35.250.204",
        "source_port": 34855,
        "destination_port": 443,
        "protocol": 6,
        "octets": 557,
        "fields": {"tls.handshake.type": "1", "tls.handshake.extensions_server_name": "video.example"},
    },
    "FlowPath": {
        "schema_version": 1,
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "probe": "gateway-ö",
        "other_probe": "gateway-b",
        "flow_id": "fedcba9876543210",
        "other_flow_id": "fedc000000000007",
        "source_address": "128.232.110.120",
        "destination_address": "66.35.250.204",
        "source_port": 34855,
        "destination_port": 80,
        "protocol": 6,
        "start_ns": TIME_NS,
        "gap_ns": 1_250_000,
        "ended": True,
        "packets_fwd": 12,
        "packets_rev": 10,
        "octets_fwd": 900,
        "octets_rev": 12_000,
        "other_packets_fwd": 12,
        "other_packets_rev": 9,
        "other_octets_fwd": 900,
        "other_octets_rev": 10_500,
    },
    "PacketPrediction": {
        "schema_version": 1,
        "prediction_id": "00000000deadbeef",
        "flow_id": "fedcba9876543210",
        "probe": "gateway-ö",
        "source_address": "128.232.110.120",
        "destination_address": "66.35.250.204",
        "source_port": 34855,
        "destination_port": 80,
        "protocol": 6,
        "start_ns": TIME_NS,
        "packet_number": 4,
        "reversed": True,
        "event_time_ns": TIME_NS + 1_000_000,
        "octets": 1460,
        "label": "YouTube",
        "confidence": 0.875,
        "probabilities": {"YouTube": 0.875, "GMail": 0.125},
        "model": "packets-lstm",
        "model_version": "2026-11-22.1",
        "replayed": True,
        "probe_time_ns": TIME_NS + 2_000_000,
        "bus_to_model_ns": 1_200_000,
        "queue_ns": 300_000,
        "model_ns": 450_000,
    },
    "ModelVersion": {
        "schema_version": 1,
        "name": "packets-lstm",
        "version": "2026-11-22.1",
        "kind": "lstm",
        "classes": ["GMail", "YouTube"],
        "uri": "models/packets-lstm/2026-11-22.1",
        "sha256": "00" * 32,
        "card": '{"parameters": 15000}',
        "created_ns": TIME_NS,
        "published_time_ns": TIME_NS + 60_000_000_000,
    },
    "Label": {
        "schema_version": 1,
        "flow_id": "fedcba9876543210",
        "probe": "gateway-ö",
        "label": "web browsing",
        "source": "labels.csv",
        "start_ns": TIME_NS,
        "published_time_ns": TIME_NS + 60_000_000_000,
    },
    "CostTelemetry": {
        "schema_version": 2,
        "stage": "flows",
        "instance": "gateway-1:4711",
        "detail": "",
        "time_ns": TIME_NS,
        "interval_ns": 1_000_000_000,
        "unit": "packets",
        "items_in": 1_000_000,
        "items_out": 999_990,
        "dropped": {"duplicate": 10},
        "counters": {"packets_late": 3, "flows_opened": 17},
        "cpu_ns": 420_000_000,
        "state_bytes": 123_456,
        "output_bytes": 7_654_321,
        "latency_p50_ns": 4_000_000,
        "latency_p99_ns": None,
        "lag_records": 12,
        "gauges": {"accuracy": 0.9375, "lag_s": 0.25},
    },
    "DeadLetter": {
        "schema_version": 1,
        "topic": "packets",
        "partition": 3,
        "offset": 123_456_789_012,
        "stage": "flows",
        "reason": "a packet points past the flow directory",
        "time_ns": TIME_NS,
        "key": b"gateway-1",
        "message_size": 5,
        "message": b"\x00\xff\xc3\x01\x80",
    },
    "FlowState": {
        "schema_version": 1,
        "partition": 3,
        "offset": 42,
        "layout": "0123456789abcdef",
        "part": 0,
        "parts": 2,
        "digest": bytes(range(32)),
        "body": b"\x28\xb5\x2f\xfd",
    },
}


def message(name: str) -> bytes:
    """Return the example message of a schema."""
    if name == "PacketBatch":
        return packet_batch()
    if name == "FeatureBatch":
        return feature_batch()
    if name == "PayloadBatch":
        return payload_batch()
    return encode(name, RECORDS[name])


def readable(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON can hold it: columns as lists, other bytes in hexadecimal digits."""
    values = (
        feature_columns(dict(record)) if name == "FeatureBatch" else unpack(record, columns_of(schema(name)))
    )
    return {
        key: values[key].tolist() if key in values else value.hex() if isinstance(value, bytes) else value
        for key, value in record.items()
    }


__all__ = ["NAMES", "RECORDS", "message", "readable"]
