"""The walk over ring blocks: what is decoded, what goes back to the kernel, and what hostile offsets do."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.decoder.link import ETHERNET
from producers.decoder.reasons import counters_of
from producers.probe.ring.direction import parse_mac
from producers.probe.ring.kernel import BY_NETWORK_HEADER, MERGED, SEEN, TAGGED, TWICE, RingShape
from schemas.packets import EGRESS, INGRESS, NOT_KNOWN, Extra
from tests.producers.frames import UDP, decode_file, ethernet, ip4, mixed_records, pcap, rows_of, tcp, udp
from tests.producers.probe.rings import BLOCK_OCTETS, Frame, Ring, block

ROOT = Path(__file__).resolve().parents[3]
DIRECTION = Extra(direction=True)
PACKET = ethernet(ip4(udp(), UDP))


def test_a_ring_decodes_to_what_a_capture_of_the_same_frames_does(tmp_path: Path) -> None:
    records = [record for record in mixed_records(60) if len(record.data) < 1400]
    path = tmp_path / "same.pcap"
    path.write_bytes(pcap(records, nanoseconds=True))
    expected = decode_file(path)
    frames = [Frame(r.data, r.time_ns, r.original) for r in records]
    ring = Ring([block(frames[i : i + 2]) for i in range(0, len(frames), 2)])
    assert rows_of(ring.read()) == expected.rows
    assert counters_of(ring.state.counts) == expected.counters


def test_blocks_are_given_back_once_all_of_their_packets_are_out() -> None:
    ring = Ring([block([Frame(PACKET)] * 3), block([Frame(PACKET)] * 3), block([], status=0)])
    assert ring.read(rows=4).packets == 4
    assert ring.status() == [0, 1, 0]
    assert ring.read(rows=4).packets == 2
    assert ring.status() == [0, 0, 0]
    assert ring.read(rows=4).packets == 0
    assert ring.counts[SEEN] == 6


def test_a_full_ring_is_gone_round_once_though_nothing_was_given_back() -> None:
    ring = Ring([block([Frame(PACKET)] * 2)] * 3)
    assert ring.read(release=False).packets == 6
    assert ring.read(release=False).packets == 0
    assert ring.status() == [1, 1, 1]


def test_times_lengths_and_marks_come_from_the_frame_headers() -> None:
    merged = Frame(
        ethernet(ip4(tcp(), total_length=40_000)), 1_800_000_000_999_999_999, length=40_014, vlan=7
    )
    ring = Ring([block([merged, Frame(PACKET)])])
    columns = ring.read()
    assert columns.time_ns.tolist() == [1_800_000_000_999_999_999, 1_700_000_000_123_456_789]
    assert columns.octets[0] == 40_000
    assert (ring.counts[MERGED], ring.counts[TAGGED]) == (1, 1)


def test_a_loopback_shows_each_packet_once() -> None:
    shape = RingShape(BLOCK_OCTETS, 1, ETHERNET, True, 1522, False)
    ring = Ring([block([Frame(PACKET, packet_type=4), Frame(PACKET, packet_type=0)])], shape)
    assert ring.read().packets == 1
    assert ring.counts[TWICE] == 1


def test_where_the_link_layer_is_unknown_the_kernel_says_where_ip_begins() -> None:
    shape = RingShape(BLOCK_OCTETS, 1, BY_NETWORK_HEADER, False, 1522, False)
    ring = Ring([block([Frame(PACKET), Frame(PACKET, protocol=0x0806)])], shape)
    assert ring.read().packets == 1
    assert counters_of(ring.state.counts).skipped == {"not_ip": 1}


def test_the_kernel_tells_what_this_machine_sends() -> None:
    ring = Ring([block([Frame(PACKET, packet_type=4), Frame(PACKET), Frame(PACKET, packet_type=3)])])
    assert ring.read(extra=DIRECTION).flow_direction.tolist() == [EGRESS, INGRESS, INGRESS]


def test_addresses_tell_which_way_a_frame_goes() -> None:
    shape = RingShape(BLOCK_OCTETS, 1, ETHERNET, False, 1522, True)
    there_and_back = [Frame(PACKET), Frame(PACKET[6:12] + PACKET[:6] + PACKET[12:])]
    other = Frame(bytes(12) + PACKET[12:])
    ring = Ring([block([*there_and_back, other])], shape)
    destination, source = parse_mac("02:00:00:00:00:01"), parse_mac("02-00-00-00-00-02")
    assert ring.read(extra=DIRECTION, macs=[7, source]).flow_direction.tolist() == [
        EGRESS,
        INGRESS,
        NOT_KNOWN,
    ]
    assert PACKET[:12] == destination.to_bytes(6, "big") + source.to_bytes(6, "big")


HOSTILE = """
import numpy as np, random, sys
from tests.producers.probe.rings import *
from tests.producers.frames import ethernet, ip4, udp
packet = ethernet(ip4(udp(), 17))
whole = block([Frame(packet)] * 8)
dice = random.Random(int(sys.argv[1]))
for _ in range(400):
    octets = bytearray(whole + block([Frame(packet)] * 3))
    for _ in range(dice.randrange(1, 12)):
        at = dice.choice([12, 16, 20, 48, 48 + 12, 48 + 24, 48 + 26, dice.randrange(len(octets) - 4)])
        octets[at : at + 4] = dice.choice([b"\\xff\\xff\\xff\\xff", b"\\0\\0\\0\\0", dice.randbytes(4)])
    ring = Ring([bytes(octets[:4096]), bytes(octets[4096:])])
    for _ in range(5):
        ring.read(rows=dice.choice([1, 5, 100]))
print("fine")
"""


def test_hostile_blocks_are_not_read_beyond_with_bounds_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, "7"],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_DISABLE_JIT": "0", "PYTHONPATH": str(ROOT),
             "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", "") + "-checked"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


@given(
    seed=st.integers(0, (1 << 32) - 1),
    changes=st.lists(st.tuples(st.integers(0, BLOCK_OCTETS - 4), st.integers(0, (1 << 32) - 1)), max_size=8),
    is_made=st.booleans(),
)
@settings(max_examples=200)
def test_any_block_ends_and_every_frame_is_counted(
    seed: int, changes: list[tuple[int, int]], is_made: bool
) -> None:
    memory = bytearray(
        block([Frame(PACKET)] * 10) if is_made else random.Random(seed).randbytes(BLOCK_OCTETS)
    )
    for at, value in changes:
        memory[at : at + 4] = value.to_bytes(4, "little")
    memory[8] |= 1
    ring = Ring([bytes(memory)])
    packets = 0
    for _ in range(200):
        found = ring.read(rows=50).packets
        packets += found
        if not found:
            break
    assert ring.status() == [0]
    counted = counters_of(ring.state.counts)
    assert counted.accepted == packets
    assert counted.read == ring.counts[SEEN]
