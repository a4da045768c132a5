"""The decoder: a list of frames in, packet columns out.

Captures and live rings alike fill a ``Frames`` list, a few hundred frames at a time so that what the walker
touched is still in the cache, and call ``decode_frames``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.decoder.fragments import first_ports, later_ports
from producers.decoder.link import ip_start
from producers.decoder.network import FIRST_FRAGMENT, LATER_FRAGMENT, WHOLE, decode_ip4, decode_ip6, skipped
from producers.decoder.octets import u8, u32_big
from producers.decoder.reasons import (
    ACCEPTED,
    BAD_IP_HEADER,
    CLAMPED_TIMES,
    TRUNCATED_IP,
    TRUNCATED_TRANSPORT,
)
from producers.decoder.spans import FRAGMENT, Spans
from producers.decoder.state import DecodeState
from producers.decoder.transport import is_reversed, ports_at, transport_fields
from producers.names.spots import (
    ANEW,
    NOTHING,
    REST,
    Spots,
    begins_anew,
    is_watched,
    kind_of,
    may_be_watched,
    note,
)
from schemas.compiled import compiled
from schemas.flow_key import TCP, hash_words
from schemas.packets import LATEST_NS, NOT_KNOWN

FRAMES = 512
"""Frames that are walked before they are decoded."""


class Frames(NamedTuple):
    """Where frames lie in a buffer; all arrays have the same number of rows."""

    start: NDArray[np.int64]
    """Index of the first byte."""
    captured: NDArray[np.int64]
    """Bytes in the buffer; the caller guarantees that they are inside it."""
    original: NDArray[np.int64]
    """Bytes on the wire, link layer included."""
    time_ns: NDArray[np.int64]
    """Capture time; a negative one is set to 0 and counted."""
    link_type: NDArray[np.int64]
    """As the tcpdump group registers them (see ``producers.decoder.link``)."""
    flow_direction: NDArray[np.int64]
    """INGRESS, EGRESS or NOT_KNOWN (see ``schemas.packets``), which it is where nobody says so."""


def allocate_frames(rows: int = FRAMES) -> Frames:
    """Return a list with room for ``rows`` frames."""
    frames = Frames(*(np.zeros(rows, np.int64) for _ in Frames._fields))
    frames.flow_direction[:] = NOT_KNOWN
    return frames


def writable(columns: PacketColumns) -> PacketColumns:
    """Return the columns as the kernels write them: addresses viewed as two 64-bit words a row."""
    return columns._replace(
        address_a=columns.address_a.view(np.uint64),  # type: ignore[arg-type]
        address_b=columns.address_b.view(np.uint64),  # type: ignore[arg-type]
    )


@compiled(error_model="numpy")
def copy_head(
    raw: NDArray[np.uint8], at: int, stop: int, version: int, head: NDArray[np.uint8], row: int
) -> int:
    """Copy a packet's first octets without its addresses; return how many.

    The flow directory has the addresses, as the probe chooses to tell them; a copy would tell them as they are.
    """
    octets = min(stop - at, head.shape[1])
    first, last = (12, 20) if version == 4 else (8, 40)
    for i in range(octets):
        head[row, i] = 0 if first <= i < last else raw[at + i]
    return octets


@compiled(error_model="numpy")
def decode_frames(
    raw: NDArray[np.uint8],
    frames: Frames,
    count: int,
    out: PacketColumns,
    row: int,
    state: DecodeState,
    spans: Spans | None = None,
    spots: Spots | None = None,
) -> int:
    """Decode the first ``count`` frames into rows from ``row`` on; return the row after the last one written.

    Args:
        raw: read-only bytes that the frames lie in.
        frames: the list of frames.
        count: how many of them to decode.
        out: ``writable`` columns with room for ``count`` rows from ``row`` on.
        row: the first row to write.
        state: counts and fragments of this decoder; every frame adds one to ``state.counts``, at ACCEPTED or
            at the reason for which it was skipped.
        spans: where the packets' payloads lie is written to these, if given. A kernel compiled without them
            holds nothing of it.
        spots: packets that may tell a name are noted here, if given; the same holds.
    """
    # Taken out of the tuples here, columns cost no reference counting in the loop.
    counts, starts, lengths, originals = state.counts, frames.start, frames.captured, frames.original
    times, link_types = frames.time_ns, frames.link_type
    time_column, octets, header_octets, ttl = out.time_ns, out.octets, out.header_octets, out.ttl
    tcp_window, tcp_flags, direction, flow_hash = out.tcp_window, out.tcp_flags, out.direction, out.flow_hash
    address_a, address_b, port_a, port_b = out.address_a, out.address_b, out.port_a, out.port_b
    protocols, ip_version = out.protocol, out.ip_version
    tcp_sequence, tcp_acknowledgment = out.tcp_sequence, out.tcp_acknowledgment
    head, head_length = out.heads, out.head_length
    wants_tcp, wants_head = len(tcp_sequence) > 0, len(head_length) > 0
    directions, flow_direction = frames.flow_direction, out.flow_direction
    wants_direction = len(flow_direction) > 0
    if spots is not None:
        watching = spots.watching
    for i in range(count):
        start, time_ns = starts[i], times[i]
        off_the_clock = time_ns < 0 or time_ns > LATEST_NS
        if off_the_clock:
            time_ns = np.int64(0)
        end = start + lengths[i]
        at = ip_start(raw, start, end, link_types[i])
        if at < 0:
            counts[-at] += 1
            continue
        if at >= end:
            counts[TRUNCATED_IP] += 1
            continue
        wire_octets = max(lengths[i], originals[i]) - (at - start)
        version = u8(raw, at) >> 4
        if version == 4:
            ip = decode_ip4(raw, at, end, wire_octets)
        elif version == 6:
            ip = decode_ip6(raw, at, end, wire_octets)
        else:
            ip = skipped(BAD_IP_HEADER)
        if ip.result != ACCEPTED:
            counts[ip.result] += 1
            continue
        protocol, header, flags, window = ip.protocol, ip.header_octets, 0, 0
        if ip.part == WHOLE:
            ports = ports_at(raw, ip.transport, ip.stop, protocol)
        else:
            if ip.part == FIRST_FRAGMENT:
                told = first_ports(
                    raw, ip.transport, ip.stop, protocol, ip.datagram, time_ns, state.fragments
                )
            else:
                told = later_ports(protocol, ip.datagram, time_ns, state.fragments, counts)
            ports = told if told < 0 else told & 0xFFFFFFFF
            protocol = told >> 32
        if ports < 0:
            counts[TRUNCATED_TRANSPORT] += 1
            continue
        if ip.part != LATER_FRAGMENT:
            transport_octets, flags, window = transport_fields(raw, ip.transport, ip.stop, protocol)
            header += transport_octets
        counts[ACCEPTED] += 1
        if off_the_clock:
            counts[CLAMPED_TIMES] += 1
        sent_ports = ports
        a, b, is_from_b = ip.source, ip.destination, is_reversed(ip.order, ports, protocol)
        if is_from_b:
            a, b, ports = b, a, ((ports & 0xFFFF) << 16) | (ports >> 16)
        if spans is not None:
            spans.start[row] = ip.transport if ip.part == WHOLE else FRAGMENT
            spans.stop[row] = ip.stop
            spans.ip_octets[row] = min(ip.header_octets, ip.octets)
        time_column[row] = time_ns
        octets[row] = ip.octets
        header_octets[row] = min(header, ip.octets)
        ttl[row] = ip.ttl
        tcp_window[row] = window
        tcp_flags[row] = flags
        direction[row] = is_from_b
        address_a[row, 0], address_a[row, 1] = a
        address_b[row, 0], address_b[row, 1] = b
        port_a[row], port_b[row] = ports >> 16, ports & 0xFFFF
        protocols[row] = protocol
        ip_version[row] = version
        flow = hash_words(a[0], a[1], b[0], b[1], ports >> 16, ports & 0xFFFF, protocol, version)
        flow_hash[row] = flow
        if wants_tcp:
            numbered = protocol == TCP and ip.part != LATER_FRAGMENT and ip.stop - ip.transport >= 12
            tcp_sequence[row] = u32_big(raw, ip.transport + 4) if numbered else 0
            tcp_acknowledgment[row] = u32_big(raw, ip.transport + 8) if numbered else 0
        if wants_direction:
            flow_direction[row] = directions[i]
        if wants_head:
            head_length[row] = copy_head(raw, at, ip.stop, version, head, row)
        if spots is not None:
            payload, kind = ip.transport + header - ip.header_octets, NOTHING
            if ip.part == WHOLE:
                kind = kind_of(raw, payload, ip.stop, protocol, sent_ports)
                if begins_anew(protocol, flags):
                    kind |= ANEW
                elif (
                    kind == NOTHING
                    and may_be_watched(watching, flow)
                    and payload < ip.stop
                    and is_watched(spots, flow, is_from_b)
                ):
                    kind = REST
            if kind != NOTHING:
                is_whole = ip.stop - at >= ip.octets
                note(spots, raw, kind, row, flow, is_from_b, ip.transport, payload, ip.stop, is_whole)
        row += 1
    return row
