"""What came of a run: each flow that was sent against the predictions that could be read about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flowgauge.bench.serve.generator import Given, write_addresses
from schemas.codec import decode
from schemas.flow_key import flow_id_of, hash_five_tuple

TARGET_MS = 16.0
MISS = -1
PROBE_HOP = "probe_ns"
"""From a packet's own time until its batch is sent."""
HOPS = ("bus_to_flows_ns", "flows_ns", "bus_to_model_ns", "model_ns")
"""The following hops, as records have them."""
_QUANTILES = (0.5, 0.9, 0.99)


@njit(cache=True, nogil=True)
def flow_ids(
    given: Given, template: NDArray[np.int32], begins_ns: NDArray[np.int64], probe: np.uint64
) -> NDArray[np.uint64]:
    """Return the flow id of each flow sent; ``begins_ns`` is event time."""
    out = np.empty(len(template), np.uint64)
    a, b = np.zeros(16, np.uint8), np.zeros(16, np.uint8)
    for flow in range(len(template)):
        t = template[flow]
        write_addresses(flow, given.ip_version[t], a, b)
        hashed = hash_five_tuple(
            a, b, given.source_port[t], given.destination_port[t], given.protocol[t], given.ip_version[t]
        )
        out[flow] = flow_id_of(hashed, probe, begins_ns[flow])
    return out


def weighted_f1(true: NDArray[np.int64], said: NDArray[np.int64], classes: int) -> float:
    """Return the mean F1 over the classes, weighted by how many flows are of each; MISS is wrong for every class."""
    total = 0.0
    for number in range(classes):
        is_true, is_said = true == number, said == number
        right = int((is_true & is_said).sum())
        both = int(is_true.sum()) + int(is_said.sum())
        total += int(is_true.sum()) * (2 * right / both if both else 0.0)
    return total / max(1, len(true))


@dataclass(frozen=True)
class Answers:
    """The final prediction on each flow sent; arrays have as many rows as there are flows."""

    said: NDArray[np.int64]
    """Class, or MISS: none, or ``unknown``."""
    arrived_ns: NDArray[np.int64]
    """When it could be read; 0: never."""
    packet_ns: NDArray[np.int64]
    """Time of the packet that it was made on."""
    hops_ns: NDArray[np.int64]
    """(flows, 1 + HOPS) what it took from then on, as the record tells; what is left is the way to the reader."""
    tier: NDArray[np.int64]
    escalated: NDArray[np.bool_]
    unknown: int
    repeated: int
    """Final predictions beyond one of a flow."""
    contradicted: int
    """Flows with two prediction ids that are final."""
    strange: int
    """Predictions about flows that were never sent."""
    provisional: int

    @property
    def latency_ns(self) -> NDArray[np.int64]:
        """Return the time from the packet to the reader; 0 where there is no answer."""
        return np.where(self.arrived_ns > 0, self.arrived_ns - self.packet_ns, 0)

    @property
    def misses(self) -> int:
        """Return how many flows got no final answer."""
        return int((self.arrived_ns == 0).sum())


def answers(
    arrivals: Sequence[tuple[int, bytes]], ids: NDArray[np.uint64], classes: Sequence[str]
) -> Answers:
    """Return what was read of each flow."""
    places = {f"{flow:016x}": i for i, flow in enumerate(ids.tolist())}
    numbers = {name: i for i, name in enumerate(classes)}
    flows = len(ids)
    said = np.full(flows, MISS, np.int64)
    arrived, packet, tier = (np.zeros(flows, np.int64) for _ in range(3))
    hops = np.zeros((flows, 1 + len(HOPS)), np.int64)
    escalated = np.zeros(flows, np.bool_)
    named: dict[int, str] = {}
    counts = dict.fromkeys(("unknown", "repeated", "contradicted", "strange", "provisional"), 0)
    for at_ns, value in arrivals:
        record = decode("Prediction", value)
        flow = places.get(record["flow_id"])
        if flow is None:
            counts["strange"] += 1
            continue
        if not record["final"]:
            counts["provisional"] += 1
            escalated[flow] = True
            continue
        if flow in named:
            counts["repeated"] += 1
            counts["contradicted"] += named[flow] != record["prediction_id"]
            continue
        named[flow] = record["prediction_id"]
        counts["unknown"] += record["label"] == "unknown"
        said[flow] = numbers.get(record["label"], MISS)
        arrived[flow], packet[flow] = at_ns, record["event_time_ns"]
        hops[flow] = [record["probe_time_ns"] - packet[flow], *(record[name] for name in HOPS)]
        tier[flow] = record["tier"]
        escalated[flow] |= record["tier"] > 1
    return Answers(said, arrived, packet, hops, tier, escalated, **counts)


def quantiles_ms(values_ns: NDArray[np.int64]) -> dict[str, float]:
    """Return quantiles by name; nothing where there are no values."""
    if not len(values_ns):
        return {}
    found = np.quantile(values_ns, _QUANTILES) / 1e6
    return {f"p{round(100 * q)}": round(float(v), 2) for q, v in zip(_QUANTILES, found, strict=True)}


def latencies(found: Answers, measured: NDArray[np.bool_], tiers: Sequence[str]) -> dict[str, Any]:
    """Return latency by tier and overall, of the flows measured."""
    there = measured & (found.arrived_ns > 0)
    overall = found.latency_ns[there]
    late = quantiles_ms(overall)
    hops = {name.removesuffix("_ns"): found.hops_ns[there, i] for i, name in enumerate((PROBE_HOP, *HOPS))}
    hops["bus_to_reader"] = overall - found.hops_ns[there].sum(axis=1)
    return {
        "share_within_16ms": round(float((overall <= TARGET_MS * 1e6).sum() / max(1, measured.sum())), 4),
        "latency_p50_ms": late.get("p50"),
        "latency_p99_ms": late.get("p99"),
        "latency_ms": {"overall": late}
        | {
            name: quantiles_ms(found.latency_ns[there & (found.tier == i)]) for i, name in enumerate(tiers, 1)
        },
        "hops_ms": {name: quantiles_ms(values) for name, values in hops.items()},
        "answered_by": {name: int((found.tier == i).sum()) for i, name in enumerate(tiers, 1)},
    }
