"""What DNS told: address to name, by client, as a bounded table that compiled code looks flows up in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.names.told import Told
from schemas.flow_key import hash_words

ROOM = 1 << 16
"""Entries; each address that an answer tells takes two."""
LEAST_S, MOST_S = 60, 86_400
"""Bounds on how long an answer holds: clients keep an address for a while even where its TTL is 0."""
_WINDOW = 8
_ANY = np.uint64(0xFFFFFFFFFFFFFFFF)
_ODD, _40, _3, _7 = np.uint64(0x9E3779B97F4A7C15), np.uint64(40), np.uint64(3), np.uint64(7)


class Answers(NamedTuple):
    """The table; a named tuple, so that Numba takes it. No entries: names are not looked up."""

    key: NDArray[np.uint64]
    """(entries, 5): server and client address in two words each, IP version; version 0 is an empty entry."""
    until_ns: NDArray[np.int64]
    """Event time up to which the entry holds."""
    name: NDArray[np.uint32]
    """Number of the name."""
    some: NDArray[np.uint8]
    """(entries / 4,) two bits an entry: those of addresses that an answer told are set, so that all others, which most
    flows have, are not looked up."""
    entered: NDArray[np.int64]
    """(1,) addresses whose bits were set since they were last made anew."""


def new_answers(entries: int = ROOM) -> Answers:
    """Return an empty table; ``entries`` is 0 or a power of two."""
    return Answers(
        np.zeros((entries, 5), np.uint64),
        np.zeros(entries, np.int64),
        np.zeros(entries, np.uint32),
        np.zeros(entries // 4, np.uint8),
        np.zeros(1, np.int64),
    )


@njit(cache=True, nogil=True)
def _bit(answers: Answers, s0: np.uint64, s1: np.uint64) -> np.uint64:
    """Return the number of an address's bit."""
    mixed = (s0 ^ (s1 * _ODD)) * _ODD
    return (mixed >> _40) & np.uint64(8 * len(answers.some) - 1)


@njit(cache=True, nogil=True)
def _set(answers: Answers, s0: np.uint64, s1: np.uint64) -> None:
    bit = _bit(answers, s0, s1)
    answers.some[bit >> _3] |= np.uint8(1) << np.uint8(bit & _7)


@njit(cache=True, nogil=True)
def _is_set(answers: Answers, s0: np.uint64, s1: np.uint64) -> bool:
    bit = _bit(answers, s0, s1)
    return bool((answers.some[bit >> _3] >> np.uint8(bit & _7)) & np.uint8(1))


@njit(cache=True, nogil=True)
def _renew(answers: Answers) -> None:
    """Set the bits of the addresses in the table, and no others."""
    answers.some[:] = 0
    answers.entered[0] = 0
    for at in range(len(answers.until_ns)):
        if answers.key[at, 4]:
            _set(answers, answers.key[at, 0], answers.key[at, 1])


@njit(cache=True, nogil=True)
def _find(
    key: NDArray[np.uint64], s0: np.uint64, s1: np.uint64, c0: np.uint64, c1: np.uint64, version: int
) -> tuple[int, int]:
    """Return (entry or -1, where the search began)."""
    mask = np.uint64(len(key) - 1)
    home = hash_words(s0, s1, c0, c1, 0, 0, 0, version) & mask
    v = np.uint64(version)
    for step in range(_WINDOW):
        at = (home + np.uint64(step)) & mask
        if (
            key[at, 0] == s0
            and key[at, 1] == s1
            and key[at, 2] == c0
            and key[at, 3] == c1
            and key[at, 4] == v
        ):
            return np.int64(at), np.int64(home)  # type: ignore[return-value]
    return -1, np.int64(home)  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def _get(
    answers: Answers, s0: np.uint64, s1: np.uint64, c0: np.uint64, c1: np.uint64, version: int, time_ns: int
) -> int:
    at, _ = _find(answers.key, s0, s1, c0, c1, version)
    if at >= 0 and answers.until_ns[at] >= time_ns:
        return np.int64(answers.name[at])  # type: ignore[return-value]
    return -1


@njit(cache=True, nogil=True)
def name_of(
    answers: Answers, s0: np.uint64, s1: np.uint64, d0: np.uint64, d1: np.uint64, version: int, time_ns: int
) -> int:
    """Return the number of the name of a packet's destination or source, or -1.

    What the other end itself was told comes first, then what anybody was: an answer may go to a resolver that
    asks for its clients. Of the two ends the destination comes first.
    """
    if not (_is_set(answers, d0, d1) or _is_set(answers, s0, s1)):
        return -1
    found = _get(answers, d0, d1, s0, s1, version, time_ns)
    if found < 0:
        found = _get(answers, s0, s1, d0, d1, version, time_ns)
    if found < 0:
        found = _get(answers, d0, d1, _ANY, _ANY, version, time_ns)
    if found < 0:
        found = _get(answers, s0, s1, _ANY, _ANY, version, time_ns)
    return found


@njit(cache=True, nogil=True)
def _put(
    answers: Answers, s0: np.uint64, s1: np.uint64, c0: np.uint64, c1: np.uint64, version: int,
    until_ns: int, name: int,
) -> None:  # fmt: skip
    at, home = _find(answers.key, s0, s1, c0, c1, version)
    if at < 0:
        # An empty entry (which holds until 0), one that is over, else the one that is over first.
        at = home
        for step in range(1, _WINDOW):
            other = (home + step) & (len(answers.until_ns) - 1)
            if answers.until_ns[other] < answers.until_ns[at]:
                at = other
    key = answers.key
    key[at, 0], key[at, 1], key[at, 2], key[at, 3], key[at, 4] = s0, s1, c0, c1, version
    answers.until_ns[at] = until_ns
    answers.name[at] = name


@njit(cache=True, nogil=True)
def learn(answers: Answers, told: Told, event: int, name: int, now_ns: int) -> None:
    """Enter what an answer among the events told its client, from ``now_ns`` on; ``name`` is the name's number."""
    until_ns = now_ns + min(max(told.ttl_s[event], LEAST_S), MOST_S) * 1_000_000_000
    c0, c1 = told.client[event]
    for i in range(told.address_stop[event - 1] if event else 0, told.address_stop[event]):
        s0, s1 = told.address[i]
        version = int(told.version[i])
        if 2 * answers.entered[0] >= len(answers.until_ns):
            _renew(answers)
        answers.entered[0] += 1
        _set(answers, s0, s1)
        _put(answers, s0, s1, c0, c1, version, until_ns, name)
        _put(answers, s0, s1, _ANY, _ANY, version, until_ns, name)
