"""Gives up every right of the process once everything that needs one is open."""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

from schemas.errors import SettingsError

_SET_NO_NEW_PRIVILEGES, _CAPBSET_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")


def take_rights() -> None:
    """Put in effect what the process may take: file capabilities are often given that way. No right is needed."""
    libc = ctypes.CDLL(None, use_errno=True)
    permitted = _mask("CapPrm")
    if permitted & ~_mask("CapEff"):
        _set_capabilities(libc, permitted)


def drop_privileges(user: str) -> str:
    """Become ``user`` if the process is root, and give up all capabilities for good; return in words what was done.

    Only the calling thread loses its capabilities, so this comes before any other is started.

    Raises:
        SettingsError: there is no such user, or the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    account = ""
    if os.geteuid() == 0 and user and user != "root":
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise SettingsError(f"probe.user = {user!r}: there is no such user") from None
        _empty_bounding_set(libc)
        try:
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        except OSError as error:
            raise SettingsError(
                f"probe.user = {user!r}: cannot become this user ({error.strerror}); empty stays what it is"
            ) from error
        account = f"user {user}, "
    _call(libc.prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities")
    _set_capabilities(libc, 0)
    _call(libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "forbid new privileges")
    left = capabilities()
    if left:
        raise SettingsError(f"capabilities {left:#x} are left after all were given up")
    who = account or f"user id {os.geteuid()}, "
    return f"privileges dropped: {who}no capabilities, no way to new ones"


def capabilities() -> int:
    """Return the capabilities that are in effect or may be taken, as a bit mask."""
    return _mask("CapPrm") | _mask("CapEff") | _mask("CapInh") | _mask("CapAmb")


def _mask(name: str) -> int:
    """Return a set of capabilities of this thread."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.partition(":")[2], 16)
    return 0


def _set_capabilities(libc: ctypes.CDLL, mask: int) -> None:
    """Have these capabilities and no others, in effect and to be taken; none is inherited."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _call(libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)), "set capabilities")


def _empty_bounding_set(libc: ctypes.CDLL) -> None:
    """Take capabilities from whatever the process may execute, where that is allowed."""
    for number in range(int(_LAST_CAPABILITY.read_text()) + 1):
        libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)


def _call(result: int, what: str) -> None:
    if result != 0:
        raise SettingsError(f"cannot {what}: {os.strerror(ctypes.get_errno())}")
