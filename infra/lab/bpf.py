"""The few calls of ``bpf(2)`` that the packet generator needs; instructions are put together by hand."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from schemas.errors import FlowgaugeError

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LOAD, _TEST_RUN, _LINK_CREATE = 5, 10, 28
_XDP, _XDP_ATTACH = 6, 37
_LIVE_FRAMES = 1 << 1
_LOG_OCTETS = 1 << 16

MOVE, MOVE_REGISTER, AND, ADD = 0xB7, 0xBF, 0x57, 0x07
LOAD_WORD, STORE_HALF, JUMP_GREATER, CALL, EXIT = 0x61, 0x6B, 0x2D, 0x85, 0x95
RANDOM, REDIRECT = 7, 23
"""Helpers: ``bpf_get_prandom_u32``, ``bpf_redirect``."""
XDP_PASS = 2


class BpfError(FlowgaugeError):
    """The kernel refuses a program, or has no BPF."""


def instruction(code: int, to: int = 0, of: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Return one instruction: its code, two registers, an offset and a constant."""
    return struct.pack("<BBhi", code, to | of << 4, offset, value)


def load(program: bytes, *, to_attach: bool = False) -> int:
    """Load an XDP program; return its file descriptor. Raises BpfError with the verifier's last words."""
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(_LOG_OCTETS)
    wanted = struct.pack(
        "<IIQQIIQII16sII",
        _XDP,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        1,
        _LOG_OCTETS,
        ctypes.addressof(log),
        0,
        0,
        b"",
        0,
        _XDP_ATTACH if to_attach else 0,
    )
    try:
        return _bpf(_LOAD, wanted)
    except OSError as error:
        words = log.value.decode(errors="replace").strip().splitlines()
        raise BpfError(f"BPF: {error.strerror}{': ' + words[-1] if words else ''}") from error


def attach(program: int, interface: int) -> int:
    """Have an interface run a program on what it receives, as long as the returned file descriptor is open."""
    try:
        return _bpf(_LINK_CREATE, struct.pack("<IIII", program, interface, _XDP_ATTACH, 0))
    except OSError as error:
        raise BpfError(f"BPF: the interface takes no XDP program: {error.strerror}") from error


def run_live(program: int, frame: ctypes.Array[ctypes.c_char], repeat: int) -> None:
    """Run a program ``repeat`` times on copies of a frame, and do with each what it says; other threads go on."""
    wanted = struct.pack(
        "<IIIIQQIIIIQQIII",
        program,
        0,
        len(frame),
        0,
        ctypes.addressof(frame),
        0,
        repeat,
        0,
        0,
        0,
        0,
        0,
        _LIVE_FRAMES,
        0,
        64,
    )
    try:
        _bpf(_TEST_RUN, wanted)
    except OSError as error:
        raise BpfError(
            f"BPF: cannot send frames: {error.strerror} (Linux 5.18 or later is needed)"
        ) from error


_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, wanted: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise BpfError(f"BPF: not known how to call it on {platform.machine()}")
    attributes = ctypes.create_string_buffer(wanted.ljust(128, b"\0"), 128)
    result: int = _libc.syscall(number, command, attributes, 80 if command == _TEST_RUN else 128)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
