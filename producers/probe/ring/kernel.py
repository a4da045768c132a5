"""The walk over a TPACKET_V3 ring: the kernel's blocks of frames, decoded where they lie.

The layout is that of ``linux/if_packet.h`` (Documentation/networking/packet_mmap.rst): a block begins with a
descriptor (status, number of frames, offset of the first), each frame with a ``tpacket3_hdr`` that says where
the next one is, followed by a ``sockaddr_ll``. Offsets are checked against the block all the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.decoder.kernel import Frames, decode_frames
from producers.decoder.link import RAW
from producers.decoder.octets import u8, u16_big, u16_little, u32_big, u32_little
from producers.decoder.reasons import BAD_RECORD, NOT_IP
from producers.decoder.spans import Spans
from producers.decoder.state import DecodeState
from producers.names.spots import Spots
from schemas.compiled import compiled
from schemas.packets import EGRESS, INGRESS, NOT_KNOWN

# Block descriptor.
STATUS, FRAMES_AT, FIRST_AT, SEQUENCE = 8, 12, 16, 24
BLOCK_HEADER = 48
USER = 1
"""Bit of a block's status: the kernel has handed it over."""

# tpacket3_hdr, and the sockaddr_ll behind it.
_NEXT, _SECONDS, _NANOSECONDS, _SNAPPED, _LENGTH, _FRAME_STATUS, _MAC, _NET, _TCI = (
    0,
    4,
    8,
    12,
    16,
    20,
    24,
    26,
    32,
)
_PROTOCOL, _PACKET_TYPE = 50, 58
FRAME_HEADER = 68
_VLAN_VALID, _HARDWARE_TIME = 1 << 4, 1 << 31
_OUTGOING = 4
_IP4, _IP6 = 0x0800, 0x86DD

# Where the walk stands (int64 array ``place``).
BLOCK, AT, LEFT, DONE, PLACES = 0, 1, 2, 3, 4

# Counts of the walk beside those of the decoder.
SEEN, TWICE, TAGGED, MERGED, HARDWARE, BLOCKS, RING_COUNTS = 0, 1, 2, 3, 4, 5, 6

BY_NETWORK_HEADER = -1
"""Link type of an interface whose link layer we do not know: the kernel says where the network header is."""


class RingShape(NamedTuple):
    """What the walk has to know of a ring; scalars."""

    block_octets: int
    blocks: int
    link_type: int
    """As the tcpdump group registers them, or BY_NETWORK_HEADER."""
    skip_outgoing: bool
    """Whether outgoing packets are left out: a loopback interface shows each packet twice."""
    most_octets: int
    """Longest frame that goes over the wire; a longer one was merged, or is still to be cut, by offloading."""
    by_mac: bool
    """Whether MAC addresses tell the direction; else outgoing packets are egress."""


@intrinsic
def _fence(context: Any) -> Any:
    """Order the loads and stores before against those after, as a block's status needs it on every CPU."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.none(), generate


@compiled(error_model="numpy")
def _by_mac(raw: NDArray[np.uint8], at: int, octets: int, macs: NDArray[np.int64]) -> int:
    """Return the direction of an Ethernet frame: egress is from one of ``macs``, ingress to one of them."""
    if octets < 12:
        return NOT_KNOWN
    destination = (u32_big(raw, at) << 16) | u16_big(raw, at + 4)
    source = (u16_big(raw, at + 6) << 32) | u32_big(raw, at + 8)
    for mac in macs:
        if source == mac:
            return EGRESS
        if destination == mac:
            return INGRESS
    return NOT_KNOWN


@compiled(error_model="numpy")
def walk_ring(
    raw: NDArray[np.uint8],
    ring: RingShape,
    place: NDArray[np.int64],
    counts: NDArray[np.int64],
    decoded: NDArray[np.int64],
    frames: Frames,
    room: int,
    macs: NDArray[np.int64],
) -> int:
    """List up to ``room`` frames; return how many. Fewer mean that the kernel has handed over no more.

    Args:
        raw: the ring.
        ring: its shape.
        place: where to go on, moved here. ``place[DONE]`` blocks were gone through since it was last set to 0; they
            belong to the kernel again when the caller says so, and not before what was listed is decoded.
        counts: RING_COUNTS counts.
        decoded: the decoder's counts: what is skipped here is counted there.
        frames: the list.
        room: most frames to list.
        macs: of whom egress is, where the ring goes by MAC addresses.
    """
    starts, captured, original = frames.start, frames.captured, frames.original
    times, link_types, directions = frames.time_ns, frames.link_type, frames.flow_direction
    size = ring.block_octets
    count = 0
    while count < room:
        base = place[BLOCK] * size
        if place[AT] == 0:
            if place[DONE] == ring.blocks or not u32_little(raw, base + STATUS) & USER:
                break
            _fence()
            place[LEFT] = u32_little(raw, base + FRAMES_AT)
            place[AT] = u32_little(raw, base + FIRST_AT)
            counts[BLOCKS] += 1
            if place[LEFT] and place[AT] < BLOCK_HEADER:
                decoded[BAD_RECORD] += 1
                counts[SEEN] += 1
                place[LEFT] = 0
        at, left = place[AT], place[LEFT]
        while left > 0 and count < room:
            if at + FRAME_HEADER > size:
                decoded[BAD_RECORD] += 1
                counts[SEEN] += 1
                left = 0
                break
            frame = base + at
            step = u32_little(raw, frame + _NEXT)
            mac, net = u16_little(raw, frame + _MAC), u16_little(raw, frame + _NET)
            snapped, status = u32_little(raw, frame + _SNAPPED), u32_little(raw, frame + _FRAME_STATUS)
            counts[SEEN] += 1
            left -= 1
            if mac < FRAME_HEADER - 20 or at + mac + snapped > size or net < mac:
                decoded[BAD_RECORD] += 1
            elif ring.skip_outgoing and u8(raw, frame + _PACKET_TYPE) == _OUTGOING:
                counts[TWICE] += 1
            else:
                start, link_type, is_known = frame + mac, ring.link_type, True
                if link_type == BY_NETWORK_HEADER:
                    kind = u16_big(raw, frame + _PROTOCOL)
                    is_known = kind in (_IP4, _IP6) and net - mac <= snapped
                    start, link_type, snapped = frame + net, RAW, snapped - (net - mac)
                if is_known:
                    length = u32_little(raw, frame + _LENGTH)
                    starts[count], captured[count], original[count] = (
                        start,
                        snapped,
                        length - (start - frame - mac),
                    )
                    times[count] = u32_little(raw, frame + _SECONDS) * 1_000_000_000 + u32_little(
                        raw, frame + _NANOSECONDS
                    )
                    link_types[count] = link_type
                    if ring.by_mac:
                        directions[count] = _by_mac(raw, frame + mac, snapped, macs)
                    else:
                        is_out = u8(raw, frame + _PACKET_TYPE) == _OUTGOING
                        directions[count] = EGRESS if is_out else INGRESS
                    counts[MERGED] += length > ring.most_octets
                    count += 1
                else:
                    decoded[NOT_IP] += 1
            counts[TAGGED] += (status & _VLAN_VALID) != 0
            counts[HARDWARE] += (status & _HARDWARE_TIME) != 0
            if left > 0 and step < FRAME_HEADER:
                decoded[BAD_RECORD] += 1
                counts[SEEN] += 1
                left = 0
            at += step
        place[AT], place[LEFT] = at, left
        if left == 0:
            place[AT] = 0
            place[BLOCK] = (place[BLOCK] + 1) % ring.blocks
            place[DONE] += 1
    return count


@compiled(error_model="numpy")
def decode_ring(
    raw: NDArray[np.uint8],
    ring: RingShape,
    place: NDArray[np.int64],
    counts: NDArray[np.int64],
    frames: Frames,
    out: PacketColumns,
    row: int,
    state: DecodeState,
    spans: Spans | None,
    macs: NDArray[np.int64],
    spots: Spots | None = None,
) -> int:
    """Decode what the kernel has handed over into ``out`` from ``row`` on, as long as there is room.

    Returns:
        The row after the last one written. ``place``, ``counts`` and ``macs`` are those of ``walk_ring``.
    """
    rows = len(out.time_ns)
    while row < rows:
        count = walk_ring(
            raw, ring, place, counts, state.counts, frames, min(len(frames.start), rows - row), macs
        )
        if count == 0:
            break
        row = decode_frames(raw, frames, count, out, row, state, spans, spots)
    return row


@compiled
def give_back(words: NDArray[np.uint32], ring: RingShape, place: NDArray[np.int64]) -> None:
    """Give the blocks that were gone through back to the kernel; ``words`` is the ring, writable."""
    _fence()
    first = place[BLOCK] - place[DONE]
    for number in range(first, place[BLOCK]):
        # The oldest first: it is the one that the kernel waits for, if the ring is full.
        words[(number % ring.blocks * ring.block_octets + STATUS) // 4] = 0
    place[DONE] = 0
