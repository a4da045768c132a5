"""Messages about the packets and flows of a payload batch: what the codec writes of plain records."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.packet.records import Rows, Timing
from models.packet.rows import last_packets
from schemas.codec import encode
from schemas.community_id import address_text, community_id
from schemas.payloads import PayloadBatch, decode_payload_batch
from tests.models.packet.batches import TIME_NS, payload_batch

CLASSES = ("dns", "wéb")
FLOW = st.fixed_dictionaries(
    {
        "flow_id": st.integers(0, 2**64 - 1),
        "address_a": st.binary(min_size=16, max_size=16),
        "address_b": st.binary(min_size=16, max_size=16),
        "port_a": st.integers(0, 65535),
        "port_b": st.integers(0, 65535),
        "protocol": st.sampled_from([1, 6, 17, 58]),
        "ip_version": st.sampled_from([4, 6]),
        "start_ns": st.integers(0, TIME_NS),
        "first_direction": st.integers(0, 1),
    }
)
PACKET = st.fixed_dictionaries(
    {
        "flow_index": st.integers(0, 2**16 - 1),
        "time_ns": st.integers(0, TIME_NS),
        "packet_number": st.integers(1, 2**32 - 1),
        "octets": st.integers(0, 65535),
        "direction": st.integers(0, 1),
    }
)
SHARE = st.floats(0, 1, width=32)
FLOWS = st.lists(FLOW, min_size=1, max_size=3)
ANSWERED = st.lists(st.tuples(PACKET, SHARE, SHARE), min_size=3, max_size=6)


def batch_of(flows: list[dict[str, Any]], packets: list[dict[str, Any]], sent_ns: int) -> PayloadBatch:
    """Return a batch as it comes off the bus."""
    made = payload_batch(*((i, 1, b"") for i, _ in enumerate(packets)), sent_time_ns=sent_ns)
    columns = dict(made.columns)
    for rows in (flows, packets):
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name.startswith("address"):
                columns[name] = np.frombuffer(b"".join(values), np.uint8).reshape(-1, 16)
            else:
                columns[name] = np.array(values, columns[name].dtype)
    columns["flow_index"] %= len(flows)
    return decode_payload_batch(PayloadBatch(**{**made.__dict__, "columns": columns}).encode())


def told_of(flow: dict[str, Any]) -> dict[str, Any]:
    """Return what records tell of a flow."""
    source, destination = "ba" if flow["first_direction"] else "ab"
    version = flow["ip_version"]
    return {
        "flow_id": f"{flow['flow_id']:016x}",
        "source_address": address_text(flow[f"address_{source}"], version),
        "destination_address": address_text(flow[f"address_{destination}"], version),
        "source_port": flow[f"port_{source}"],
        "destination_port": flow[f"port_{destination}"],
        "protocol": flow["protocol"],
        "start_ns": flow["start_ns"],
        "probe": "gate",
        "model": "m",
        "model_version": "3",
        "replayed": False,
    }


def id_of(flow: dict[str, Any], number: int) -> str:
    text = b"m\0packet\0" + struct.pack("<QIq", flow["flow_id"], number, 0)
    return blake2b(text, digest_size=8).hexdigest()


@given(FLOWS, ANSWERED, st.integers(-100, 100), st.booleans())
def test_messages_are_those_of_plain_records(
    flows: list[dict[str, Any]],
    answered: list[tuple[dict[str, Any], float, float]],
    ahead_ns: int,
    with_probabilities: bool,
) -> None:
    packets = [packet for packet, _, _ in answered]
    shares = [shares for _, *shares in answered]
    batch = batch_of(flows, packets, TIME_NS)
    received_ns = TIME_NS + ahead_ns
    timing = Timing(received_ns, received_ns + 5, received_ns + 12)
    rows = Rows(batch, ("m", "3"), CLASSES, np.array(shares, np.float32), timing)
    stages = {"probe_time_ns": TIME_NS, "bus_to_model_ns": max(0, ahead_ns)}
    wanted, last = [], {}
    for i, (packet, share) in enumerate(zip(packets, shares, strict=True)):
        of = packet["flow_index"] % len(flows)
        number = min(packet["packet_number"], 2**31 - 1)
        label = int(share[1] > share[0])
        wanted.append(
            {
                **told_of(flows[of]), **stages, "schema_version": 1, "prediction_id": id_of(flows[of], number),
                "packet_number": number, "reversed": packet["direction"] != flows[of]["first_direction"],
                "event_time_ns": packet["time_ns"], "octets": packet["octets"], "label": CLASSES[label],
                "confidence": share[label], "queue_ns": 5, "model_ns": 7,
                "probabilities": dict(zip(CLASSES, share, strict=True)) if with_probabilities else {},
            }
        )  # fmt: skip
        last[of] = i
    messages, keys = rows.packet_messages(with_probabilities)
    assert messages == [encode("PacketPrediction", record) for record in wanted]
    assert keys == [record["flow_id"] for record in wanted]

    found, place = last_packets(batch.columns["flow_index"], batch.flows)
    assert found.tolist() == [last[of] for of in sorted(last)]
    assert [found.tolist()[k] for k in place] == [
        last[packet["flow_index"] % len(flows)] for packet in packets
    ]
    labels = np.arange(len(found)) % 2
    messages, keys = rows.vote_messages(found, labels, np.full(len(found), 0.75))
    votes = []
    for i, of in enumerate(sorted(last)):
        record, flow = wanted[last[of]], flows[of]
        turned = flow["first_direction"]
        ends = [flow["address_a"], flow["address_b"]][:: -1 if turned else 1]
        a, b = (end if flow["ip_version"] == 6 else end[:4] + bytes(12) for end in ends)
        votes.append(
            {
                **told_of(flow), **stages, "schema_version": 2, "prediction_id": record["prediction_id"],
                "community_id": community_id(
                    a, b, record["source_port"], record["destination_port"], flow["protocol"], flow["ip_version"]
                ),
                "event_time_ns": record["event_time_ns"], "representation": "packet",
                "depth": record["packet_number"], "flow_end_reason": 0, "label": CLASSES[i % 2],
                "confidence": 0.75, "bus_to_flows_ns": 0, "flows_ns": 0, "model_ns": 12, "final": True,
                "tier": 0, "ood": 0.0,
            }
        )  # fmt: skip
    assert messages == [encode("Prediction", record) for record in votes]
    assert keys == [record["flow_id"] for record in votes]


def test_times_that_no_clock_shows_fit_their_fields() -> None:
    (flow,) = [{"flow_id": 1, **dict.fromkeys(("address_a", "address_b"), bytes(16)), "protocol": 6}]
    batch = batch_of([flow], [{"octets": 1}], -(2**63))
    rows = Rows(batch, ("m", "1"), CLASSES, np.ones((1, 2), np.float32), Timing(1, 2, 3))
    assert rows._times.bus_to_model_ns == 2**63 - 1
    assert len(rows.packet_messages(False)[0]) == 1
