"""Capture filters, compiled by libpcap and run by the kernel: what ``tcpdump`` takes is taken here."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import socket
from typing import Any, NamedTuple

from producers.decoder.link import RAW
from producers.probe.ring.kernel import BY_NETWORK_HEADER
from schemas.errors import SettingsError

_ATTACH_FILTER = 26
_RETURN = 0x06
_ERROR_OCTETS = 256
_UNKNOWN_NETMASK = 0xFFFFFFFF
_RAW_HERE = 12
"""What libpcap on Linux calls raw IP; in files it is 101."""
_LOADED_AS = ("libpcap.so.1", "libpcap.so.0.8", "libpcap.so")
_INSTALL = (
    "install libpcap (Debian: apt install libpcap0.8, Fedora: dnf install libpcap, Alpine: apk add libpcap)"
)


class Instruction(ctypes.Structure):
    """One instruction of classic BPF (``struct sock_filter``)."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(Instruction)))


class _SocketProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction)))


class Filter(NamedTuple):
    """A compiled filter."""

    text: str
    snap_octets: int
    """How much of a packet that passes is copied."""
    instructions: tuple[tuple[int, int, int, int], ...]
    """(code, jt, jf, k) of each instruction."""

    def attach(self, to: socket.socket) -> None:
        """Have a socket run this filter from now on, in the place of the one before."""
        array = (Instruction * len(self.instructions))(*(Instruction(*one) for one in self.instructions))
        program = _SocketProgram(len(array), array)
        to.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, bytes(program))


def take_all(snap_octets: int) -> Filter:
    """Return the filter that takes the first octets of every packet."""
    return Filter("", snap_octets, ((_RETURN, 0, 0, snap_octets),))


def take_none() -> Filter:
    """Return the filter that takes nothing: for the time in which a socket is not ready."""
    return take_all(0)


def compile_filter(text: str, link_type: int, snap_octets: int) -> Filter:
    """Compile a filter.

    It sees packets as they lie in memory: a VLAN tag that the card took out is not there.

    Args:
        text: in the language of ``pcap-filter(7)``; empty takes everything.
        link_type: of the interface.
        snap_octets: how much of a packet that passes is copied.

    Raises:
        SettingsError: it does not compile, with libpcap's words, or libpcap is not installed.
    """
    if not text.strip():
        return take_all(snap_octets)
    library = _library()
    kind = _RAW_HERE if link_type in (RAW, BY_NETWORK_HEADER) else link_type
    handle = library.pcap_open_dead(kind, snap_octets)
    if not handle:
        raise SettingsError(f"filter {text!r}: libpcap has no memory for it")
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, _UNKNOWN_NETMASK):
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise SettingsError(f"filter {text!r} does not compile: {reason}")
        found = tuple(
            (i.code, i.jt, i.jf, snap_octets if i.code == _RETURN and i.k else i.k)
            for i in program.instructions[: program.length]
        )
        library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
    return Filter(text, snap_octets, found)


@functools.cache
def _library() -> Any:
    """Load libpcap and declare what we call; raises SettingsError where it is not installed."""
    names = [*_LOADED_AS, *filter(None, [ctypes.util.find_library("pcap")])]
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        library.pcap_compile.argtypes = (
            ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint,
        )  # fmt: skip
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        library.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
        library.pcap_close.argtypes = (ctypes.c_void_p,)
        return library
    raise SettingsError(f"a capture filter needs libpcap, which is not on this machine: {_INSTALL}")
