"""Features over real captures, beside NumPy and plain Python that go by their definitions alone."""

from __future__ import annotations

import gzip
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producers.sources.capture import open_capture
from schemas.features import FeatureBatch
from schemas.packets import PacketBatch
from streams.config import RepresentationSettings, StreamsSettings
from streams.engine import FeatureEngine
from streams.header_layout import HEADERS
from streams.offline import run_offline

FEATURES = (
    "size_shape", "gap_shape", "size_quantiles", "gap_quantiles", "activity", "ipfix", "video_segments",
    "tcp_rtt", "tcp_flag_counts", "tcp_receive_window", "tcp_delivery", "first_bytes",
)  # fmt: skip
SETTINGS = StreamsSettings(idle_timeout_s=86_400, active_timeout_s=604_800, tcp_linger_s=60)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
FIN, SYN, RST, ACK = 1, 2, 4, 16
FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}


@dataclass
class Flow:
    """Packets of a five-tuple in the order seen, and what the engine says about the flow."""

    packets: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def arrays(self) -> dict[str, Any]:
        return {name: np.array([p[name] for p in self.packets]) for name in self.packets[0] if name != "head"}


def flows_of(path: Path, features: tuple[str, ...], depth: int = 8) -> list[tuple[dict[str, Any], Flow]]:
    """Return (row, flow) of each five-tuple of a capture that was one flow, its packets from source to end."""
    engine = FeatureEngine(features, kind="flow", depth=depth, settings=SETTINGS)
    (partition,), batcher = engine.partitions(1), engine.batcher(1)
    flows: defaultdict[tuple[Any, ...], Flow] = defaultdict(Flow)
    batches, rows = [], []
    with open_capture(str(path)) as capture:
        for block in capture.blocks(extra=engine.needs):
            batches += [{n: c.copy() for n, c in columns.items()} for _, columns in batcher.add(block)]
    batches += [columns for _, columns in batcher.flush()]
    for sequence, columns in enumerate(batches):
        keys = [key_of(columns, f) for f in range(len(columns["flow_hash"]))]
        for packet in packets_of(columns):
            flows[keys[packet["flow_index"]]].packets.append(packet)
        batch = PacketBatch(
            "p", 1, 0, 1, sequence, 0, columns, replayed=True,
            head_packets=engine.needs.head_packets, head_octets=engine.needs.head_octets,
        )  # fmt: skip
        rows += list(partition.apply(batch, 0, 0))
    rows += list(partition.end_all(0))
    for made in rows:
        for i in range(made.rows):
            row = {name: column[i] for name, column in made.columns.items() if name != "features"}
            row |= dict(zip(made.feature_names, made.columns["features"][i].tolist(), strict=True))
            ends = [
                (row[f"{end}_address"].tobytes(), int(row[f"{end}_port"]))
                for end in ("source", "destination")
            ]
            flows[(int(row["protocol"]), *sorted(ends))].rows.append(row)
    assert sum(len(flow.packets) for flow in flows.values()) == sum(
        int(r["depth"]) for f in flows.values() for r in f.rows
    )
    found = [(flow.rows[0], flow) for flow in flows.values() if len(flow.rows) == 1]
    for _, flow in found:
        first = flow.packets[0]["direction"]
        for packet in flow.packets:
            packet["way"] = int(packet["direction"] != first)
    return found


def key_of(columns: dict[str, Any], f: int) -> tuple[Any, ...]:
    ends = [(columns[f"address_{e}"][f].tobytes(), int(columns[f"port_{e}"][f])) for e in "ab"]
    return (int(columns["protocol"][f]), *sorted(ends))


def packets_of(columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    names = [
        "flow_index",
        "time_ns",
        "octets",
        "header_octets",
        "tcp_flags",
        "tcp_window",
        "ttl",
        "direction",
    ]
    names += [n for n in ("tcp_sequence", "tcp_acknowledgment") if len(columns.get(n, ()))]
    heads, at = {}, 0
    for place, length in zip(columns["head_packet"].tolist(), columns["head_length"].tolist(), strict=True):
        heads[place] = columns["head"][at : at + length].tobytes()
        at += length
    lists = [columns[name].tolist() for name in names]
    for i, values in enumerate(zip(*lists, strict=True)):
        packet = dict(zip(names, values, strict=True))
        yield {
            **packet,
            "payload": max(0, packet["octets"] - packet["header_octets"]),
            "head": heads.get(i, b""),
        }


@pytest.fixture(scope="module")
def demo(demo_capture: Path) -> list[tuple[dict[str, Any], Flow]]:
    found = flows_of(demo_capture, FEATURES)
    assert len(found) > 500
    assert sum(len(flow.packets) for _, flow in found) > 20_000
    return found


def gaps_ns(flow: Flow) -> Any:
    return np.diff(np.maximum.accumulate([p["time_ns"] for p in flow.packets]))


def moments(x: Any) -> tuple[float, float]:
    d = np.asarray(x, float) - np.mean(x)
    m2 = np.mean(d**2)
    return float(np.mean(d**3) / m2**1.5), float(np.mean(d**4) / m2**2 - 3)


def near(value: float, wanted: float, share: float = 1e-3) -> bool:
    return abs(value - wanted) <= share * max(1.0, abs(wanted))


def check_statistics(row: dict[str, Any], flow: Flow) -> None:
    octets, gaps = flow.arrays()["octets"], gaps_ns(flow) / 1e3
    for name, x in (("octets", octets), ("gap", gaps)):
        # Where values hardly differ, the moments are what rounding makes of them.
        spread = np.std(x) > 1e-6 * np.mean(x) if len(x) > 1 else False
        wanted = moments(x) if spread else (0.0, 0.0)
        if spread or len(x) < 2 or np.ptp(x) == 0:
            assert near(row[f"{name}_skew"], wanted[0])
            assert near(row[f"{name}_kurtosis"], wanted[1])
    assert near(row["gap_min_us"], gaps.min() if len(gaps) else 0)
    for name, x in (("octets", octets), ("gap_us", gaps)):
        for share in SHARES:
            told = row[f"{name}_p{round(100 * share)}"]
            value = np.quantile(x, share, method="inverted_cdf") if len(x) else 0
            # "To within an eighth"; below 1 all values share a bin, whose middle is 1.125.
            assert told == 1.125 if len(x) > 0 and value < 1 else abs(told - value) <= value / 8 * 1.001


def check_activity(row: dict[str, Any], flow: Flow) -> None:
    gaps, octets = gaps_ns(flow), flow.arrays()["octets"]
    idle = gaps >= 10**9
    bursts = np.split(octets, np.flatnonzero(idle) + 1)
    lengths = [g[g < 10**9].sum() / 1e9 for g in np.split(gaps, np.flatnonzero(idle))]
    duration = gaps.sum() / 1e9
    assert (row["bursts"], row["idle_periods"]) == (len(bursts), idle.sum())
    assert near(row["idle_s"], gaps[idle].sum() / 1e9, 1e-6)
    assert near(row["idle_max_s"], gaps[idle].max() / 1e9 if idle.any() else 0, 1e-6)
    assert row["burst_octets_max"] == max(b.sum() for b in bursts)
    assert near(row["burst_max_s"], max(lengths), 1e-6)
    assert near(row["burst_octets_mean"], octets.sum() / len(bursts), 1e-6)
    for way, name in enumerate(("fwd", "rev")):
        sent = sum(p["octets"] for p in flow.packets if p["way"] == way)
        assert near(row[f"octets_per_s_{name}"], sent / duration if duration else 0, 1e-6)
    active = duration - gaps[idle].sum() / 1e9
    if active > 1e-3 or active == 0:
        assert near(row["active_octets_per_s"], octets.sum() / active if active else 0, 1e-5)


def check_ipfix_and_tcp_fields(row: dict[str, Any], flow: Flow) -> None:
    tcp = row["protocol"] == 6
    for way, name in enumerate(("fwd", "rev")):
        mine = [p for p in flow.packets if p["way"] == way]
        for told, column in (("ip_total_length", "octets"), ("ttl", "ttl")):
            values = [p[column] for p in mine] or [0]
            assert row[f"minimum_{told}_{name}"] == min(values)
            assert row[f"maximum_{told}_{name}"] == max(values)
        assert row[f"tcp_control_bits_{name}"] == reduce(or_, (p["tcp_flags"] for p in mine), 0)
        for flag, bit in FLAGS.items():
            assert row[f"{flag}_{name}"] == sum(1 for p in mine if tcp and p["tcp_flags"] & bit)
        windows = [p["tcp_window"] for p in mine if tcp and not p["tcp_flags"] & RST] or [0]
        assert row[f"receive_window_min_{name}"] == min(windows)
        assert row[f"receive_window_max_{name}"] == max(windows)
        assert near(row[f"receive_window_mean_{name}"], float(np.mean(windows)), 2e-3)


def check_segments(row: dict[str, Any], flow: Flow) -> None:
    """Cut the flow at its requests, and look at the pieces that had data."""
    pieces: list[tuple[int, list[tuple[int, int]]]] = []
    ends: list[int] = []
    for p in flow.packets:
        if p["way"] == 0 and p["payload"] > (0 if row["protocol"] == 6 else 100):
            if not pieces or pieces[-1][1]:
                if pieces:
                    ends.append(p["time_ns"])
                pieces.append((p["time_ns"], []))
        elif p["way"] == 1 and p["payload"] and pieces:
            pieces[-1][1].append((p["time_ns"], p["payload"]))
    whole = pieces[: len(ends)]
    sizes = [sum(n for _, n in data) for _, data in whole]
    assert row["segments"] == row["window_segments"] == len(sizes)
    assert near(row["segment_octets_sum"], sum(sizes), 1e-6)
    assert row["segment_open_octets"] == (sum(n for _, n in pieces[-1][1]) if pieces else 0)
    for suffix, some in (("", sizes), ("_last10", sizes[-10:])):
        some = some or [0]
        for name, wanted in (
            ("mean", np.mean(some)),
            ("std", np.std(some)),
            ("min", min(some)),
            ("max", max(some)),
        ):
            assert near(row[f"segment_octets_{name}{suffix}"], float(wanted), 2e-3)
    last = [max(t for t, _ in data) for _, data in whole]
    begun = [t for t, _ in pieces]
    lasted = [(b - a) / 1e9 for a, b in zip(begun, last, strict=False)] or [0]
    between = [(b - a) / 1e9 for a, b in zip(begun, ends, strict=False)] or [0]
    completed = np.diff(last) / 1e9 if len(last) > 1 else [0]
    assert near(row["segment_duration_mean_s"], float(np.mean(lasted)), 2e-3)
    assert near(row["segment_request_gap_mean_s"], float(np.mean(between)), 2e-3)
    assert near(row["segment_request_gap_std_s"], float(np.std(between)), 2e-3)
    assert near(row["segment_completion_gap_mean_s"], float(np.mean(completed)), 2e-3)


def unwrapped(flow: Flow) -> list[tuple[int, int]]:
    """Return (sequence, acknowledgment) of each packet without wraps, each counted from its side's first."""
    starts: list[int | None] = [None, None]
    near_by, out = [0, 0], []
    for p in flow.packets:
        d, numbers = p["way"], []
        for side, number in ((d, p["tcp_sequence"]), (1 - d, p["tcp_acknowledgment"])):
            if starts[side] is None:
                starts[side] = number
            offset = (number - int(starts[side] or 0)) % 2**32
            offset += round((near_by[side] - offset) / 2**32) * 2**32
            near_by[side] = offset
            numbers.append(offset)
        out.append((numbers[0], numbers[1]))
    return out


def check_round_trips(row: dict[str, Any], flow: Flow) -> None:
    """Time segments one at a time in each direction, and give up those that are sent again."""
    samples: list[list[float]] = [[], []]
    timed: list[tuple[int, int] | None] = [None, None]
    highest: list[int | None] = [None, None]
    if row["protocol"] == 6:
        for p, (sequence, acknowledgment) in zip(flow.packets, unwrapped(flow), strict=True):
            d, flags, us = p["way"], p["tcp_flags"], p["time_ns"] // 1000
            if flags & RST:
                continue
            waiting = timed[1 - d]
            if flags & ACK and waiting and acknowledgment >= waiting[0]:
                samples[1 - d].append(us - waiting[1])
                timed[1 - d] = None
            end = sequence + p["payload"] + bool(flags & SYN) + bool(flags & FIN)
            if end == sequence:
                continue
            running = timed[d]
            if highest[d] is None or sequence >= int(highest[d] or 0):
                highest[d] = end
                timed[d] = running or (end, us)
            elif running and sequence < running[0]:
                timed[d] = None
    for name, found in zip(("fwd", "rev"), samples, strict=True):
        assert row[f"rtt_samples_{name}"] == len(found)
        some, jitter = found or [0], 0.0
        for one, other in pairwise(found):
            jitter += (abs(other - one) - jitter) / 16
        assert near(row[f"rtt_mean_us_{name}"], float(np.mean(some)), 2e-3)
        assert near(row[f"rtt_std_us_{name}"], float(np.std(some)), 1e-2)
        assert near(row[f"rtt_min_us_{name}"], min(some), 2e-3)
        assert near(row[f"rtt_max_us_{name}"], max(some), 2e-3)
        assert near(row[f"rtt_jitter_us_{name}"], jitter, 2e-3)


def check_delivery(row: dict[str, Any], flow: Flow) -> None:
    """All octets that came twice were sent again; nothing was, where each came once and in order."""
    repeats = [0, 0]
    orderly = [True, True]
    seen: list[set[int]] = [set(), set()]
    highest: list[int | None] = [None, None]
    if row["protocol"] == 6:
        for p, (sequence, _) in zip(flow.packets, unwrapped(flow), strict=True):
            d, flags = p["way"], p["tcp_flags"]
            length = p["payload"] + bool(flags & SYN) + bool(flags & FIN)
            if flags & RST or not length:
                continue
            top = highest[d]
            keep_alive = top is not None and sequence == top - 1 and length <= 1 and not flags & (SYN | FIN)
            octets = range(sequence, sequence + length)
            if not keep_alive:
                orderly[d] = orderly[d] and (top is None or sequence >= top)
                repeats[d] += any(octet in seen[d] for octet in (octets[0], octets[-1]))
            seen[d].update(octets)
            highest[d] = max(top or 0, octets.stop) if top is not None else octets.stop
    for d, name in enumerate(("fwd", "rev")):
        told = row[f"retransmissions_{name}"], row[f"out_of_order_{name}"]
        if orderly[d]:
            assert told == (0, 0)
        assert told[0] >= repeats[d]


def check_first_bytes(row: dict[str, Any], flow: Flow) -> None:
    payload = b"".join(p["head"][p["header_octets"] :] for p in flow.packets[:8])[:400]
    told = [row[f"first_byte_{i}"] for i in range(400)]
    assert told == [*payload, *[-1] * (400 - len(payload))]


CHECKS = (
    check_statistics, check_activity, check_ipfix_and_tcp_fields, check_segments, check_round_trips,
    check_delivery, check_first_bytes,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_demo_capture_gives_what_the_definitions_say(
    check: Any, demo: list[tuple[dict[str, Any], Flow]]
) -> None:
    for row, flow in demo:
        check(row, flow)


@pytest.mark.parametrize(
    "name", ["app/nfstream__81c809__quic_t51.pcap.gz", "app/nfstream__b34e60__rdp.pcap.gz"]
)
def test_captures_from_elsewhere_give_what_the_definitions_say(name: str, shared_data: Path) -> None:
    path = shared_data / name
    if not path.is_file():
        pytest.skip(f"{name} is not there")
    found = flows_of(path, FEATURES)
    assert found
    for row, flow in found:
        for check in CHECKS:
            check(row, flow)


def test_first_bytes_do_not_depend_on_what_other_features_need(demo_capture: Path) -> None:
    """Probes send what serves all: here the heads of eight packets, of which the feature wants two."""
    representations = tuple(
        RepresentationSettings(name=name, kind="flow", features=(feature,), depth=depth)
        for name, feature, depth in (("two", "first_bytes", 2), ("eight", "header_bits", 8))
    )
    rows: list[list[bytes]] = []
    for some in (representations[:1], representations):
        made: list[bytes] = []

        def on_batch(batch: FeatureBatch, made: list[bytes] = made) -> None:
            if batch.representation == "two":
                made.extend(row.tobytes() for row in batch.columns["features"])

        run_offline(
            [str(demo_capture)], SETTINGS.model_copy(update={"representations": some}), partitions=1, probe="p",
            on_batch=on_batch,
        )  # fmt: skip
        rows.append(made)
    assert rows[0] == rows[1]
    assert len(rows[0]) > 500


def raw_packets(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (time in ns, IP packet as far as captured) of an Ethernet pcap with nanoseconds."""
    data, at = gzip.decompress(path.read_bytes()), 24
    while at < len(data):
        seconds, ns, length, _ = struct.unpack_from("<IIII", data, at)
        yield seconds * 10**9 + ns, data[at + 16 + 14 : at + 16 + length]
        at += 16 + length


def bits_of(ip: bytes) -> dict[str, bytes]:
    """Return the headers of a packet by nPrint's names."""
    size, protocol, name = ((ip[0] & 15) * 4, ip[9], "ipv4") if ip[0] >> 4 == 4 else (40, ip[6], "ipv6")
    transport = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}[protocol]
    length = (ip[size + 12] >> 4) * 4 if transport == "tcp" else 8
    addresses = slice(12, 20) if name == "ipv4" else slice(8, 40)
    header = bytearray(ip[:size])
    header[addresses] = bytes(len(header[addresses]))
    return {name: bytes(header), transport: ip[size : size + length]}


def test_header_bits_are_those_of_the_frames(demo_capture: Path) -> None:
    engine = FeatureEngine(("header_bits_open", "header_bits"), kind="flow", depth=1, settings=SETTINGS)
    at = dict(raw_packets(demo_capture))
    rows = list(flows_of(demo_capture, engine.features, depth=1))
    assert len(rows) > 500
    for row, flow in rows[:400]:
        headers = bits_of(at[flow.packets[0]["time_ns"]])
        for name, octets in HEADERS:
            there = np.unpackbits(np.frombuffer(headers.get(name, b""), np.uint8)).tolist()
            wanted = there + [-1] * (8 * octets - len(there))
            assert [row[f"open_{name}_{bit}_1"] for bit in range(8 * octets)] == wanted
            masked = [row[f"{name}_{bit}_1"] for bit in range(8 * octets)]
            assert all(m in (w, 0) and (m < 0) == (w < 0) for m, w in zip(masked, wanted, strict=True))
            ports = {"tcp": 32, "udp": 32}.get(name, 0)
            assert not there or not any(masked[:ports])
