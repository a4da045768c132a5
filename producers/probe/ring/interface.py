"""What Linux tells about an interface, without any right: whether it is there and up, its kind, its MTU."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from dataclasses import dataclass
from enum import Enum

from producers.decoder.link import ETHERNET, IEEE80211, RADIOTAP, RAW
from producers.probe.ring.kernel import BY_NETWORK_HEADER

_GET_FLAGS, _GET_MTU, _GET_HARDWARE, _SET_HARDWARE_TIME, _ETHTOOL = 0x8913, 0x8921, 0x8927, 0x89B0, 0x8946
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_ETHTOOL_GET_FEATURES = {"gro": 0x2B, "lro": 0x25, "tso": 0x1E, "gso": 0x23}
_LRO_FLAG = 1 << 15
_TIME_ALL = 1
# Hardware types (ARPHRD) whose link layer the decoder knows.
_LINK_TYPES = {1: ETHERNET, 772: ETHERNET, 519: RAW, 65534: RAW, 801: IEEE80211, 803: RADIOTAP}
_ETHERNET_OCTETS = 14
_TAGS_OCTETS = 8


class State(Enum):
    """How an interface stands."""

    UP = "up"
    DOWN = "down"
    NO_CARRIER = "up, but without carrier"
    GONE = "gone"


@dataclass(frozen=True)
class Interface:
    """An interface as it stands."""

    name: str
    index: int
    link_type: int
    """As the tcpdump group registers them, or BY_NETWORK_HEADER."""
    mtu: int
    loopback: bool
    state: State

    @property
    def most_octets(self) -> int:
        """Longest frame that goes over the wire at once, with its link layer and VLAN tags."""
        return self.mtu + _ETHERNET_OCTETS + _TAGS_OCTETS


def look_at(name: str) -> Interface:
    """Return an interface of this network namespace; of one that is gone only ``name`` and ``state`` count."""
    try:
        index = socket.if_nametoindex(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            (flags,) = struct.unpack_from("H", _ask(asker, _GET_FLAGS, name))
            (mtu,) = struct.unpack_from("i", _ask(asker, _GET_MTU, name))
            (kind,) = struct.unpack_from("H", _ask(asker, _GET_HARDWARE, name))
    except OSError:
        return Interface(name, 0, ETHERNET, 0, False, State.GONE)
    state = State.DOWN if not flags & _UP else State.UP if flags & _RUNNING else State.NO_CARRIER
    link_type = _LINK_TYPES.get(kind, BY_NETWORK_HEADER)
    return Interface(name, index, link_type, mtu, bool(flags & _LOOPBACK), state)


def _ask(asker: socket.socket, what: int, name: str) -> bytes:
    """Return what follows the name in the ``ifreq`` of an ioctl; raises OSError."""
    request = struct.pack("16s24x", name.encode()[:15])
    return fcntl.ioctl(asker, what, request)[16:]


def offloads(name: str) -> list[str]:
    """Return which offloads are on that merge or cut packets between the wire and the capture."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for feature, command in _ETHTOOL_GET_FEATURES.items():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP16x", name.encode()[:15], ctypes.addressof(value))
            try:
                fcntl.ioctl(asker, _ETHTOOL, request)
            except OSError:
                continue
            (number,) = struct.unpack_from("I", value.raw, 4)
            if number & _LRO_FLAG if feature == "lro" else number:
                found.append(feature)
    return found


def start_hardware_clock(name: str) -> str:
    """Have the interface stamp every packet it receives; return why that cannot be, or an empty string."""
    config = ctypes.create_string_buffer(struct.pack("iii", 0, 0, _TIME_ALL))
    request = struct.pack("16sP16x", name.encode()[:15], ctypes.addressof(config))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            fcntl.ioctl(asker, _SET_HARDWARE_TIME, request)
        except OSError as error:
            return error.strerror or str(error)
    return ""
