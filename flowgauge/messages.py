"""Messages of any topic as plain records for programs, and as lines for people."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from flowgauge.records import address_texts, flow_id_texts, record_columns, short_floats
from schemas.codec import decode, name_of
from schemas.features import FlowEndReason, decode_feature_batch
from schemas.packets import PACKET_COLUMNS, decode_packet_batch
from schemas.payloads import PayloadBatch, decode_payload_batch

Record = dict[str, Any]

PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmpv6", 132: "sctp"}
_FEATURES_SHOWN = 6
_BYTES_SHOWN = 24


def records_of(data: bytes, rows: bool = False) -> tuple[str, list[Record]]:
    """Return a message's schema name and its records: one, or one per row of a feature batch.

    With ``rows`` a batch of packets or payloads comes as one record per packet too, instead of one in all.

    Raises:
        CodecError: not a message of this project, or a broken one.
    """
    name = name_of(data)
    if name == "PacketBatch":
        return name, _packet_records(data) if rows else [_packet_summary(data)]
    if name == "PayloadBatch":
        payloads = decode_payload_batch(data)
        return name, payload_records(payloads) if rows else [_payload_summary(payloads, len(data))]
    if name == "FeatureBatch":
        return name, _feature_records(data)
    record = {key: _plain(value) for key, value in decode(name, data).items()}
    if "flow_end_reason" in record:
        record["flow_end_reason"] = _reason(record["flow_end_reason"])
    return name, [record]


def _reason(number: int) -> str:
    return FlowEndReason(number).text if number in set(FlowEndReason) else str(number)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _packet_summary(data: bytes) -> Record:
    batch = decode_packet_batch(data)
    times = batch.columns["time_ns"]
    return {
        "probe": batch.probe,
        "observation_point": batch.observation_point,
        "epoch": batch.epoch,
        "partition": batch.partition,
        "partitions": batch.partitions,
        "sequence": batch.sequence,
        "packets": batch.packets,
        "flows": batch.flows,
        "octets": int(batch.columns["octets"].sum(dtype=np.uint64)),
        "first_time_ns": int(times.min()) if batch.packets else None,
        "last_time_ns": int(times.max()) if batch.packets else None,
        "sent_time_ns": batch.sent_time_ns,
        "end_of_stream": batch.end_of_stream,
        "replayed": batch.replayed,
        "message_octets": len(data),
    }


def _packet_records(data: bytes) -> list[Record]:
    batch = decode_packet_batch(data)
    columns = batch.columns
    of_flow = columns["flow_index"]
    version = columns["ip_version"]
    a, b = (address_texts(columns[name], version) for name in ("address_a", "address_b"))
    from_a = columns["direction"] == 0
    made = {
        "probe": [batch.probe] * batch.packets,
        "sequence": [batch.sequence] * batch.packets,
        "source_address": np.where(from_a, a[of_flow], b[of_flow]),
        "destination_address": np.where(from_a, b[of_flow], a[of_flow]),
        "source_port": np.where(from_a, columns["port_a"][of_flow], columns["port_b"][of_flow]),
        "destination_port": np.where(from_a, columns["port_b"][of_flow], columns["port_a"][of_flow]),
        "protocol": columns["protocol"][of_flow],
        "flow_hash": [f"{value:016x}" for value in columns["flow_hash"][of_flow].tolist()],
    }
    made |= {c.name: columns[c.name] for c in PACKET_COLUMNS if c.name not in ("flow_index", "direction")}
    return list(_rows(made))


def _payload_summary(batch: PayloadBatch, message_octets: int) -> Record:
    times = batch.columns["time_ns"]
    return {
        "probe": batch.probe,
        "observation_point": batch.observation_point,
        "epoch": batch.epoch,
        "partition": batch.partition,
        "partitions": batch.partitions,
        "sequence": batch.sequence,
        "packets": batch.rows,
        "flows": batch.flows,
        "payload_octets": len(batch.columns["payload"]),
        "first_octets": batch.first_octets,
        "masked_octets": batch.masked_octets,
        "first_time_ns": int(times.min()) if batch.rows else None,
        "last_time_ns": int(times.max()) if batch.rows else None,
        "sent_time_ns": batch.sent_time_ns,
        "end_of_stream": batch.end_of_stream,
        "replayed": batch.replayed,
        "message_octets": message_octets,
    }


def payload_records(batch: PayloadBatch) -> list[Record]:
    """Return one record per packet of a payload batch, its octets behind the masked ones in hexadecimal digits."""
    columns, octets = batch.columns, batch.columns["payload"].tobytes()
    of_flow, version = columns["flow_index"], columns["ip_version"]
    a, b = (address_texts(columns[name], version) for name in ("address_a", "address_b"))
    from_a = columns["direction"] == 0
    made = {
        "probe": [batch.probe] * batch.rows,
        "sequence": [batch.sequence] * batch.rows,
        "flow_id": np.array(flow_id_texts(columns["flow_id"]), dtype=object)[of_flow],
        "source_address": np.where(from_a, a[of_flow], b[of_flow]),
        "destination_address": np.where(from_a, b[of_flow], a[of_flow]),
        "source_port": np.where(from_a, columns["port_a"][of_flow], columns["port_b"][of_flow]),
        "destination_port": np.where(from_a, columns["port_b"][of_flow], columns["port_a"][of_flow]),
        "protocol": columns["protocol"][of_flow],
        "start_ns": columns["start_ns"][of_flow],
        **{name: columns[name] for name in ("time_ns", "packet_number", "octets", "transport_octets")},
        "handshake": columns["handshake"] == 1,
        "payload": [octets[begin:end].hex() for begin, end in itertools.pairwise(batch.offsets.tolist())],
    }
    return list(_rows(made))


def _feature_records(data: bytes) -> list[Record]:
    batch = decode_feature_batch(data)
    features = short_floats(batch.columns["features"]).astype(object)
    features[~np.isfinite(batch.columns["features"])] = None
    made = {"representation": [batch.representation] * batch.rows, **record_columns(batch)}
    made["flow_id"] = flow_id_texts(batch.columns["flow_id"])
    return [
        {**row, "features": dict(zip(batch.feature_names, values, strict=True))}
        for row, values in zip(_rows(made), features.tolist(), strict=True)
    ]


def _rows(columns: dict[str, Any]) -> Iterator[Record]:
    lists = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns.values()]
    for row in zip(*lists, strict=True):
        yield dict(zip(columns, row, strict=True))


def line_of(name: str, record: Record) -> str:
    """Return one readable line about a record of the named schema."""
    return _LINES.get(name, _json_line)(record)


def clock(time_ns: int | None) -> str:
    """Return a time as ``2026-01-31 12:00:00.123`` in UTC."""
    if time_ns is None:
        return "-"
    seconds, rest = divmod(time_ns, 10**9)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // 10**6:03d}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"


def duration(ns: float | None) -> str:
    """Return a duration in the unit that reads best, as ``1.2 ms``."""
    if ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"


def short(count: float) -> str:
    """Return a count as people say it: 9500, 12.3 k, 4.56 M."""
    for unit, least, size in (("G", 1e9, 1e9), ("M", 1e6, 1e6), ("k", 1e4, 1e3)):
        if abs(count) >= least:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def endpoints(record: Record) -> str:
    """Return ``address:port → address:port protocol`` of a record with a five-tuple."""
    protocol = PROTOCOLS.get(record["protocol"], f"protocol {record['protocol']}")
    source = _endpoint(record["source_address"], record["source_port"])
    destination = _endpoint(record["destination_address"], record["destination_port"])
    return f"{source} → {destination} {protocol}"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _packet_line(r: Record) -> str:
    if "packets" not in r:
        return (
            f"{clock(r['time_ns'])} {endpoints(r)} {r['octets']} octets ttl {r['ttl']} "
            f"flags {r['tcp_flags']:#04x} window {r['tcp_window']}"
        )
    end = " end of stream" if r["end_of_stream"] else ""
    return (
        f"probe {r['probe']} sequence {r['sequence']}: {r['packets']} packets, {r['flows']} flows, "
        f"{r['octets']} octets, {clock(r['first_time_ns'])} to {clock(r['last_time_ns'])}{end}"
    )


def _feature_line(r: Record) -> str:
    shown = list(r["features"].items())[:_FEATURES_SHOWN]
    features = " ".join(f"{k}={'-' if v is None else f'{v:.4g}'}" for k, v in shown)
    more = len(r["features"]) - len(shown)
    ended = f" {r['flow_end_reason']}" if r["flow_end_reason"] else ""
    return (
        f"{clock(r['end_ns'])} {r['representation']} {r['flow_id']} {endpoints(r)} depth {r['depth']}{ended} "
        f"packets {r['packets_fwd']}+{r['packets_rev']} octets {r['octets_fwd']}+{r['octets_rev']} {features}"
        + (f" … {more} more" if more > 0 else "")
    )


def _payload_line(r: Record) -> str:
    if "payload" not in r:
        end = ", end of stream" if r["end_of_stream"] else ""
        return (
            f"{clock(r['first_time_ns'])} probe {r['probe']} sequence {r['sequence']}: {r['packets']} payloads of "
            f"{r['flows']} flows, {r['payload_octets']} octets, message of {r['message_octets']} bytes{end}"
        )
    head, more = r["payload"][: 2 * _BYTES_SHOWN], len(r["payload"]) // 2 - _BYTES_SHOWN
    return (
        f"{clock(r['time_ns'])} {r['flow_id']} {endpoints(r)} packet {r['packet_number']}, {r['octets']} octets: "
        f"{head or '(zeros)'}" + (f"… {more} more" if more > 0 else "")
    )


def _packet_prediction_line(r: Record) -> str:
    verdict = f"{r['label']} {r['confidence']:.0%}" if r["label"] is not None else "(no prediction)"
    spent = r["bus_to_model_ns"] + r["queue_ns"] + r["model_ns"]
    return (
        f"{clock(r['event_time_ns'])} {verdict} {r['flow_id']} {endpoints(r)} packet {r['packet_number']} "
        f"by {r['model']} {r['model_version']} in {duration(spent)}"
    )


def _model_line(r: Record) -> str:
    return (
        f"{clock(r['published_time_ns'])} {r['name']} {r['version']} ({r['kind']}, {len(r['classes'])} classes) "
        f"at {r['uri']}, sha256 {r['sha256'][:16]}…"
    )


def _prediction_line(r: Record) -> str:
    verdict = f"{r['label']} {r['confidence']:.0%}" if r["label"] is not None else "(no prediction yet)"
    spent = r["bus_to_flows_ns"] + r["flows_ns"] + r["bus_to_model_ns"] + r["model_ns"]
    tier = f" tier {r['tier']}" if r["tier"] else ""
    standing = "" if r["final"] else ", provisional"
    return (
        f"{clock(r['event_time_ns'])} {verdict} {r['flow_id']} {endpoints(r)} depth {r['depth']} "
        f"({r['representation']}) by {r['model']} {r['model_version']}{tier}{standing} in {duration(spent)}"
    )


def _path_line(r: Record) -> str:
    counts = [
        f"{r[f'{other}packets_fwd']}+{r[f'{other}packets_rev']} packets {r[f'{other}octets_fwd']}+"
        f"{r[f'{other}octets_rev']} octets"
        for other in ("", "other_")
    ]
    told = f": {counts[0]}, then {counts[1]}" if r["ended"] else ""
    return (
        f"{clock(r['start_ns'])} {endpoints(r)} at {r['probe']} ({r['flow_id']}), {duration(r['gap_ns'])} later at "
        f"{r['other_probe']} ({r['other_flow_id']}){told}"
    )


def _fields_line(r: Record) -> str:
    fields = " ".join(f"{name}={value}" for name, value in r["fields"].items())
    return f"{clock(r['time_ns'])} {endpoints(r)} {r['octets']} octets at {r['probe']}: {fields or '(no fields)'}"


def _label_line(r: Record) -> str:
    return f"{clock(r['start_ns'])} {r['flow_id']} probe {r['probe']} is {r['label']} ({r['source']})"


def _cost_line(r: Record) -> str:
    what = f"{r['stage']} {r['detail']}".rstrip()
    parts = [f"{r['items_in']} in, {r['items_out']} out ({r['unit']})", f"cpu {duration(r['cpu_ns'])}"]
    if r["items_in"]:
        parts.append(f"{r['cpu_ns'] / r['items_in']:.0f} ns each")
    parts += [f"state {r['state_bytes']} B", f"output {r['output_bytes']} B"]
    if r["latency_p50_ns"] is not None:
        parts.append(f"latency p50 {duration(r['latency_p50_ns'])} p99 {duration(r['latency_p99_ns'])}")
    parts += [f"dropped {reason}: {count}" for reason, count in r["dropped"].items() if count]
    parts += [f"{counter} {count}" for counter, count in r["counters"].items() if count]
    parts += [f"{gauge} {value:.4g}" for gauge, value in r["gauges"].items()]
    return f"{clock(r['time_ns'])} {what} in {duration(r['interval_ns'])}: " + ", ".join(parts)


def _dead_letter_line(r: Record) -> str:
    start = r["message"][: 2 * _BYTES_SHOWN]
    return (
        f"{clock(r['time_ns'])} {r['topic']} partition {r['partition']} offset {r['offset']}: {r['reason']} "
        f"(set aside by {r['stage']}; {r['message_size']} bytes, {start}…)"
    )


def _state_line(r: Record) -> str:
    return (
        f"partition {r['partition']} up to offset {r['offset']}: part {r['part'] + 1} of {r['parts']}, "
        f"{len(r['body']) // 2} bytes, layout {r['layout']}"
    )


def _json_line(record: Record) -> str:
    return json.dumps(record)


_LINES: dict[str, Callable[[Record], str]] = {
    "PacketBatch": _packet_line,
    "FeatureBatch": _feature_line,
    "Prediction": _prediction_line,
    "Label": _label_line,
    "CostTelemetry": _cost_line,
    "DeadLetter": _dead_letter_line,
    "FlowState": _state_line,
    "PayloadBatch": _payload_line,
    "PacketPrediction": _packet_prediction_line,
    "ModelVersion": _model_line,
    "FlowPath": _path_line,
    "PacketFields": _fields_line,
}
