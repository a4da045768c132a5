"""Columns of a payload batch as the rows that messages are written from, by compiled code: with NumPy a call for each
column took longer than the messages themselves."""

from __future__ import annotations

from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.packet_predictions import PACKET, PACKET_FLOW, StageTimes
from schemas.payloads import PayloadBatch
from schemas.prediction_ids import NAMED
from schemas.predictions import PREDICTED

Table = NDArray[np.void]
Numbers = NDArray[np.int64]

_flow_columns = itemgetter(
    "flow_id", "start_ns", "address_a", "address_b", "port_a", "port_b", "protocol", "ip_version", "first_direction"
)  # fmt: skip
_packet_columns = itemgetter("flow_index", "packet_number", "direction", "time_ns", "octets")
_MOST = 2**31 - 1
"""Largest number of a packet that a record's field holds."""


def flows_of(batch: PayloadBatch) -> Table:
    """Return what the records of each flow share: (flows,) ``PACKET_FLOW``."""
    flows = np.empty(batch.flows, PACKET_FLOW)
    _fill_flows(*_flow_columns(batch.columns), flows)
    return flows


def packets_of(batch: PayloadBatch) -> tuple[Table, Table]:
    """Return the packets, (packets,) ``PACKET``, and what their ids name, (packets,) ``NAMED``."""
    packets, named = np.empty(batch.rows, PACKET), np.empty(batch.rows, NAMED)
    columns = batch.columns
    _fill_packets(*_packet_columns(columns), columns["flow_id"], columns["first_direction"], packets, named)
    return packets, named


def last_packets(flow_index: NDArray[np.uint16], flows: int) -> tuple[Numbers, Numbers]:
    """Return the last packet of each flow that has one, in their order, and which of these each packet is of.

    Args:
        flow_index: (packets,) flow of each.
        flows: how many there may be.
    """
    (last, number), place = np.empty((2, flows), np.int64), np.empty(len(flow_index), np.int64)
    found = _find_last(flow_index, last, number, place)
    return last[:found], place


def votes_of(
    flows: Table,
    packets: Table,
    last: Numbers,
    confidences: NDArray[np.float64],
    times: StageTimes,
    received_ns: int,
) -> Table:
    """Return what is said of flows at their last packets: (votes,) ``PREDICTED``.

    Args:
        flows: (flows,) ``PACKET_FLOW``.
        packets: (packets,) ``PACKET``.
        last: (votes,) the packet up to which each vote is.
        confidences: (votes,).
        times: of the batch.
        received_ns: wall clock when the batch was taken up.
    """
    votes = np.zeros(len(last), PREDICTED)
    _fill_votes(
        flows, packets, last, confidences, times.probe_time_ns, times.bus_to_model_ns, received_ns, votes
    )
    return votes


@compiled
def _fill_flows(
    flow_id: NDArray[np.uint64],
    start_ns: Numbers,
    address_a: NDArray[np.uint8],
    address_b: NDArray[np.uint8],
    port_a: NDArray[np.uint16],
    port_b: NDArray[np.uint16],
    protocol: NDArray[np.uint8],
    ip_version: NDArray[np.uint8],
    first_direction: NDArray[np.uint8],
    flows: Table,
) -> None:
    for i in range(len(flows)):
        flow = flows[i]
        flow.flow_id, flow.start_ns = flow_id[i], start_ns[i]
        flow.protocol, flow.ip_version = protocol[i], ip_version[i]
        # The source is the sender of the first packet.
        if first_direction[i] == 1:
            flow.source_port, flow.destination_port = port_b[i], port_a[i]
        else:
            flow.source_port, flow.destination_port = port_a[i], port_b[i]
        for k in range(16):
            a, b = address_a[i, k], address_b[i, k]
            flow.source_address[k], flow.destination_address[k] = (
                (b, a) if first_direction[i] == 1 else (a, b)
            )


@compiled
def _fill_packets(
    flow_index: NDArray[np.uint16],
    packet_number: NDArray[np.uint32],
    direction: NDArray[np.uint8],
    time_ns: Numbers,
    octets: NDArray[np.uint32],
    flow_id: NDArray[np.uint64],
    first_direction: NDArray[np.uint8],
    packets: Table,
    named: Table,
) -> None:
    for i in range(len(packets)):
        packet, name, flow = packets[i], named[i], flow_index[i]
        number = min(np.int64(packet_number[i]), _MOST)
        packet.flow, packet.packet_number = flow, number
        packet.reversed = direction[i] != first_direction[flow]
        packet.event_time_ns, packet.octets = time_ns[i], octets[i]
        name.flow_id, name.depth, name.interval_start_ns = flow_id[flow], number, 0


@compiled
def _find_last(flow_index: NDArray[np.uint16], last: Numbers, number: Numbers, place: Numbers) -> int:
    """Write the last packets to the front of ``last``; return how many there are. ``number``: (flows,) scratch."""
    for flow in range(len(last)):
        last[flow] = -1
    for i in range(len(flow_index)):
        last[flow_index[i]] = i
    found = 0
    for flow in range(len(last)):
        if last[flow] >= 0:
            last[found], number[flow] = last[flow], found
            found += 1
    for i in range(len(flow_index)):
        place[i] = number[flow_index[i]]
    return found


@compiled
def _fill_votes(
    flows: Table,
    packets: Table,
    last: Numbers,
    confidences: NDArray[np.float64],
    probe_time_ns: int,
    bus_to_model_ns: int,
    received_ns: int,
    votes: Table,
) -> None:
    for i in range(len(last)):
        vote, packet = votes[i], packets[last[i]]
        flow = flows[packet.flow]
        vote.flow_id, vote.protocol, vote.ip_version = flow.flow_id, flow.protocol, flow.ip_version
        for k in range(16):
            vote.source_address[k] = flow.source_address[k]
            vote.destination_address[k] = flow.destination_address[k]
        vote.source_port, vote.destination_port = flow.source_port, flow.destination_port
        vote.start_ns, vote.end_ns, vote.depth = flow.start_ns, packet.event_time_ns, packet.packet_number
        vote.confidence, vote.tier = confidences[i], -1
        # A payload goes straight from the probe to the model.
        vote.probe_time_ns, vote.bus_to_model_ns = probe_time_ns, bus_to_model_ns
        vote.received_ns = received_ns
