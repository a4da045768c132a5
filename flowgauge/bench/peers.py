"""Other programs on the same files: NFStream and dpkt, each in a process of its own.

Run as ``python -m flowgauge.bench.peers NAME FILE…``; it prints what it counted, seconds and CPU seconds as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flowgauge.bench.children import output_of
from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result

NFSTREAM, DPKT = "nfstream", "dpkt"
REPEATS = 3
HINT = "pip install 'flowgauge[peers]'"
_DPKT_FRAMES = 300_000
"""As many frames as dpkt does in a few seconds."""


@dataclass(frozen=True)
class PeerRate:
    """Packets per second of another program: medians over ``REPEATS`` runs."""

    name: str
    value: float
    cpu_value: float


def missing(names: Sequence[str] = (NFSTREAM, DPKT)) -> list[str]:
    """Return the peers that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def add_peer(result: Result, name: str, corpus: Corpus) -> None:
    """Measure a peer on the corpus and put it beside our result."""
    rate = measure_peer(name, corpus)
    result.peer, result.peer_value, result.peer_cpu_value = rate.name, rate.value, rate.cpu_value
    result.details["cpu_ratio"] = result.cpu_value / rate.cpu_value if result.cpu_value else None


def measure_peer(name: str, corpus: Corpus) -> PeerRate:
    """Return how many frames a second a peer takes in; the time to import it is not counted.

    Raises:
        BusError: it failed.
    """
    command = [sys.executable, "-m", "flowgauge.bench.peers", name, *map(str, corpus.paths)]
    runs = [json.loads(output_of(command)) for _ in range(REPEATS)]
    # Every frame it had to look at counts for it, also those that it leaves out of its flows.
    frames = [run.get("frames", corpus.frames) for run in runs]
    return PeerRate(
        name,
        median(count / run["wall_s"] for count, run in zip(frames, runs, strict=True)),
        median(count / run["cpu_s"] for count, run in zip(frames, runs, strict=True)),
    )


def run_nfstream(paths: Sequence[str]) -> dict[str, int]:
    """Make NFStream's flows with their statistics, no dissection and one meter; return the packets in them."""
    from nfstream import NFStreamer

    packets = 0
    for path in paths:
        streamer = NFStreamer(source=path, n_dissections=0, statistical_analysis=True, n_meters=1)
        for flow in streamer:
            packets += flow.bidirectional_packets
    return {"packets": packets}


def run_dpkt(paths: Sequence[str], limit: int = _DPKT_FRAMES) -> dict[str, int]:
    """Count packets and octets by five-tuple with dpkt, the least that a flow table does."""
    import dpkt

    flows: dict[tuple[bytes, bytes, int, int, int], list[int]] = {}
    frames = packets = 0
    for path in paths:
        with open(path, "rb") as file:  # noqa: PTH123
            reader = dpkt.pcap.Reader(file)
            ethernet = reader.datalink() == dpkt.pcap.DLT_EN10MB
            for _, frame in reader:
                if frames >= limit:
                    break
                frames += 1
                ip = dpkt.ethernet.Ethernet(frame).data if ethernet else None
                if isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
                    above = ip.data
                    key = (ip.src, ip.dst, getattr(above, "sport", 0), getattr(above, "dport", 0), ip.p)
                    found = flows.setdefault(key, [0, 0])
                    found[0] += 1
                    found[1] += len(ip)
                    packets += 1
    return {"frames": frames, "packets": packets}


def main(name: str, paths: Sequence[str]) -> None:
    """Run a peer and print what it did as JSON."""
    importlib.import_module(name)
    began_s, began_cpu_s = time.perf_counter(), _cpu_s()
    found = run_nfstream(paths) if name == NFSTREAM else run_dpkt(paths)
    wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - began_cpu_s
    print(json.dumps({**found, "wall_s": wall_s, "cpu_s": cpu_s}))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
