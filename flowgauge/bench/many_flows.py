"""A flows worker without its broker, holding many flows: prints what it takes. Run as ``python -m`` with JSON."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from flowgauge.bench.sink import NullSink
from flowgauge.bench.synthetic import batches
from producers.config import BusSettings
from schemas.topics import PACKETS
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import Message


def hold(settings: StreamsSettings, partitions: int, flows: int) -> dict[str, Any]:
    """Open ``flows`` flows in a flows agent and return what the process and the flow state take."""
    agent = FlowsAgent(settings, BusSettings(partitions=partitions), NullSink())
    before = resident_mb()
    offsets = [0] * partitions
    for batch in batches(flows, partitions):
        agent.on_message(Message(PACKETS, batch.partition, offsets[batch.partition], None, batch.encode()))
        agent.on_drained()
        offsets[batch.partition] += 1
    return {
        "rss_mb": resident_mb(),
        "rss_mb_without_flows": before,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "active_flows": sum(partition.active for partition in agent.partitions.values()),
        "state_mb": round(sum(p.state_bytes for p in agent.partitions.values()) / 2**20, 1),
    }


def resident_mb() -> float:
    """Return the resident memory of this process; its peak where the system does not tell the present."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return round(pages * resource.getpagesize() / 2**20, 1)


def main(argument: str) -> None:
    """Do what the JSON asks for and print what came of it as JSON."""
    work = json.loads(argument)
    settings = StreamsSettings.model_validate(work["settings"])
    print(json.dumps(hold(settings, work["partitions"], work["flows"])))


if __name__ == "__main__":
    main(sys.argv[1])
