"""A process that spools and is killed with -9: what it knew to be synced is there, and the next goes on by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.producers.spool.fakes import World
from tests.producers.spool.test_sink import numbers

_CHILD = """
import sys
from tests.producers.spool.fakes import World
from tests.producers.spool.test_sink import send
world = World()
world.up = False
sink = world.sink(sys.argv[1], segment_mbytes=1, max_mbytes=64, memory_kbytes=1024)
number = 0
while True:
    send(sink, number, number + 50, 5000)
    number += 50
    world.now_s += 1
    if number % 200 == 0:
        sink.queue.sync()
        # What has no answer is on disk by then, so that all messages up to here are synced.
        print(number, flush=True)
"""


def test_kill_9_loses_at_most_what_was_not_synced(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdout is not None
    synced = 0
    for line in child.stdout:
        synced = int(line)
        if synced >= 1000:
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait(30)
    synced = max([synced, *map(int, rest)])

    world = World()
    sink = world.sink(tmp_path, segment_mbytes=1, max_mbytes=64, memory_kbytes=1024)
    found = sink.counts["recovered_messages"]
    assert found >= synced and sink.counts["recovered_packets"] == 10 * found
    for _ in range(200):
        sink.check()
    assert numbers(world) == list(range(found)), "all of it, in order"
    assert sink.spooled_bytes == 0
    assert sink.counts["spool_corrupt"] == 0
