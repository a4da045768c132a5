"""Link layers: from a frame's first byte to its IP header."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u16_little, u32_big
from producers.decoder.reasons import NOT_IP, TRUNCATED_LINK, UNKNOWN_LINK_TYPE
from schemas.compiled import compiled

# Link types as the tcpdump group registers them.
NULL, ETHERNET, PPP, RAW_OPENBSD, RAW_BSD, PPP_HDLC, PPPOE = 0, 1, 9, 12, 14, 50, 51
RAW, CISCO_HDLC, IEEE80211, LOOP, LINUX_SLL, RADIOTAP = 101, 104, 105, 108, 113, 127
IPV4, IPV6, LINUX_SLL2 = 228, 229, 276

LINK_TYPES: dict[int, str] = {
    NULL: "BSD loopback",
    ETHERNET: "Ethernet",
    PPP: "PPP",
    RAW_OPENBSD: "raw IP",
    RAW_BSD: "raw IP",
    PPP_HDLC: "PPP in HDLC framing",
    PPPOE: "PPPoE",
    RAW: "raw IP",
    CISCO_HDLC: "Cisco HDLC",
    IEEE80211: "802.11",
    LOOP: "OpenBSD loopback",
    LINUX_SLL: "Linux cooked v1",
    RADIOTAP: "802.11 with radiotap",
    IPV4: "raw IPv4",
    IPV6: "raw IPv6",
    LINUX_SLL2: "Linux cooked v2",
}
"""Link types that can be decoded, with their names."""

_IP4, _IP6, _PPPOE_SESSION, _MPLS, _MPLS_MULTICAST = 0x0800, 0x86DD, 0x8864, 0x8847, 0x8848
_MAX_802_3_LENGTH = 1500
_MAX_TAGS = 8
_MAX_LABELS = 16


@compiled(error_model="numpy", forceinline=True)
def ip_start(raw: NDArray[np.uint8], at: int, end: int, link_type: int) -> int:
    """Return where IP starts in the frame ``raw[at:end]``, or minus the reason for skipping it."""
    if link_type == ETHERNET and end - at >= 14:
        kind = u16_big(raw, at + 12)
        if kind in (_IP4, _IP6):
            return at + 14
    return _ip_start(raw, at, end, link_type)


@compiled(error_model="numpy")
def _ip_start(raw: NDArray[np.uint8], at: int, end: int, link_type: int) -> int:
    """Return the same for any frame."""
    if link_type == ETHERNET:
        return _after_type(raw, at + 12, end)
    if link_type in (RAW, RAW_OPENBSD, RAW_BSD, IPV4, IPV6):
        return at
    if link_type == LINUX_SLL:
        return _after_type(raw, at + 14, end)
    if link_type == LINUX_SLL2:
        # The protocol stands first here, so its payload does not follow it.
        if end - at < 20:
            return -TRUNCATED_LINK
        return _payload(raw, at + 20, end, u16_big(raw, at))
    if link_type in (NULL, LOOP):
        return _loopback(raw, at, end)
    if link_type in (PPP, PPP_HDLC):
        return _ppp(raw, at, end)
    if link_type == PPPOE:
        return _ppp(raw, at + 6, end)
    if link_type == CISCO_HDLC:
        return _after_type(raw, at + 2, end)
    if link_type == IEEE80211:
        return _ieee80211(raw, at, end)
    if link_type == RADIOTAP:
        if end - at < 4:
            return -TRUNCATED_LINK
        return _ieee80211(raw, at + u16_little(raw, at + 2), end)
    return -UNKNOWN_LINK_TYPE


@compiled(error_model="numpy")
def _after_type(raw: NDArray[np.uint8], at: int, end: int) -> int:
    """Follow the EtherType at ``at``."""
    if end - at < 2:
        return -TRUNCATED_LINK
    return _payload(raw, at + 2, end, u16_big(raw, at))


@compiled(error_model="numpy")
def _payload(raw: NDArray[np.uint8], at: int, end: int, kind: int) -> int:
    """Return where IP starts in a payload of EtherType ``kind``, behind VLAN tags, SNAP, PPPoE or MPLS."""
    for _ in range(_MAX_TAGS):
        if kind in (_IP4, _IP6):
            return at
        if kind in (0x8100, 0x88A8, 0x9100, 0x9200):
            if end - at < 4:
                return -TRUNCATED_LINK
            kind = u16_big(raw, at + 2)
            at += 4
        elif kind == _PPPOE_SESSION:
            return _ppp(raw, at + 6, end)
        elif kind in (_MPLS, _MPLS_MULTICAST):
            return _mpls(raw, at, end)
        elif kind <= _MAX_802_3_LENGTH:
            if end - at < 8:
                return -NOT_IP
            if u32_big(raw, at) != 0xAAAA0300 or u16_big(raw, at + 4) != 0:
                return -NOT_IP
            kind = u16_big(raw, at + 6)
            at += 8
        else:
            return -NOT_IP
    return -NOT_IP


@compiled(error_model="numpy")
def _mpls(raw: NDArray[np.uint8], at: int, end: int) -> int:
    """Return where IP starts behind a stack of MPLS labels; the payload's first bits tell if it is IP."""
    for _ in range(_MAX_LABELS):
        if end - at < 5:
            return -TRUNCATED_LINK
        bottom = u8(raw, at + 2) & 1
        at += 4
        if bottom:
            return at if u8(raw, at) >> 4 in (4, 6) else -NOT_IP
    return -NOT_IP


@compiled(error_model="numpy")
def _ppp(raw: NDArray[np.uint8], at: int, end: int) -> int:
    """Return where IP starts in a PPP frame; address and control may be left out and the type compressed."""
    if end - at < 4:
        return -TRUNCATED_LINK
    if u16_big(raw, at) == 0xFF03:
        at += 2
    kind = u8(raw, at)
    at += 1
    if kind & 1 == 0:
        if at >= end:
            return -TRUNCATED_LINK
        kind = (kind << 8) | u8(raw, at)
        at += 1
    if kind in (0x0021, 0x0057):
        return at
    return _mpls(raw, at, end) if kind == 0x0281 else -NOT_IP


@compiled(error_model="numpy")
def _loopback(raw: NDArray[np.uint8], at: int, end: int) -> int:
    """Return where IP starts behind a BSD address family, in the byte order of the capturing machine."""
    if end - at < 4:
        return -TRUNCATED_LINK
    family = u32_big(raw, at)
    if family > 0xFFFF:
        family = u16_little(raw, at)
    # AF_INET, then AF_INET6 of Linux, Windows, NetBSD and OpenBSD, FreeBSD, Darwin.
    return at + 4 if family in (2, 10, 23, 24, 28, 30) else -NOT_IP


@compiled(error_model="numpy")
def _ieee80211(raw: NDArray[np.uint8], at: int, end: int) -> int:
    """Return where IP starts in an unencrypted 802.11 data frame."""
    if end - at < 2:
        return -TRUNCATED_LINK
    control, flags = u8(raw, at), u8(raw, at + 1)
    carries_data = control & 0x0C == 0x08 and control & 0x40 == 0
    if not carries_data or flags & 0x40:
        return -NOT_IP
    at += 24
    if flags & 0x03 == 0x03:
        at += 6
    if control & 0x80:
        at += 6 if flags & 0x80 else 2
    if end - at < 8:
        return -TRUNCATED_LINK
    return _payload(raw, at, end, 0)
