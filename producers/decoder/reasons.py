"""Why a frame is skipped, and the counts of a decoder: nothing is dropped uncounted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Results of decoding one frame. Kernels see these as constants; ACCEPTED has to be 0.
ACCEPTED = 0
NOT_IP = 1
TRUNCATED_LINK = 2
TRUNCATED_IP = 3
BAD_IP_HEADER = 4
TRUNCATED_TRANSPORT = 5
UNKNOWN_LINK_TYPE = 6
UNKNOWN_INTERFACE = 7
BAD_RECORD = 8
CUT_RECORD = 9
ABSURD_LENGTH = 10
# Counted besides: these packets are accepted.
FRAGMENTS_WITHOUT_FIRST = 11
CLAMPED_TIMES = 12
COUNTS = 13

REASONS = {
    NOT_IP: "not_ip",
    TRUNCATED_LINK: "truncated_link",
    TRUNCATED_IP: "truncated_ip",
    BAD_IP_HEADER: "bad_ip_header",
    TRUNCATED_TRANSPORT: "truncated_transport",
    UNKNOWN_LINK_TYPE: "unknown_link_type",
    UNKNOWN_INTERFACE: "unknown_interface",
    BAD_RECORD: "bad_record",
    CUT_RECORD: "cut_record",
    ABSURD_LENGTH: "absurd_length",
}
"""Names of the reasons for which a frame is skipped:

- ``not_ip``: another protocol (ARP, LLDP, encrypted 802.11, …);
- ``truncated_link``, ``truncated_ip``, ``truncated_transport``: captured bytes, or the packet itself, end
  inside that header before what a flow needs to know;
- ``bad_ip_header``: header fields that contradict each other;
- ``unknown_link_type``, ``unknown_interface``: a record whose link layer is unsupported or undeclared;
- ``bad_record``: a record whose lengths contradict its block;
- ``cut_record``: the file ends inside the record;
- ``absurd_length``: a record length no capture has; nothing after it can be found.
"""


@dataclass(frozen=True)
class DecodeCounters:
    """What became of the frames read so far; ``accepted + sum(skipped.values()) == read``."""

    read: int = 0
    accepted: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Frames that gave no packet, by reason (see REASONS); reasons that did not occur are left out."""
    fragments_without_first: int = 0
    """Accepted fragments whose ports are unknown (given as 0), since their first fragment was not seen."""
    clamped_times: int = 0
    """Accepted packets whose time was before 1970 or beyond int64 nanoseconds, and was set to 0."""

    def __add__(self, other: DecodeCounters) -> DecodeCounters:
        """Return the counts of two captures together."""
        skipped = dict(self.skipped)
        for reason, count in other.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
        return DecodeCounters(
            self.read + other.read,
            self.accepted + other.accepted,
            skipped,
            self.fragments_without_first + other.fragments_without_first,
            self.clamped_times + other.clamped_times,
        )


def counters_of(counts: NDArray[np.int64]) -> DecodeCounters:
    """Return the counters that a decoder's array of counts (COUNTS long) stands for."""
    skipped = {name: int(counts[code]) for code, name in REASONS.items() if counts[code]}
    accepted = int(counts[ACCEPTED])
    return DecodeCounters(
        read=accepted + sum(skipped.values()),
        accepted=accepted,
        skipped=skipped,
        fragments_without_first=int(counts[FRAGMENTS_WITHOUT_FIRST]),
        clamped_times=int(counts[CLAMPED_TIMES]),
    )
