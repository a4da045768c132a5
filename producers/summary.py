"""What a replay did, in numbers that add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class ProbeSummary:
    """What one probe of a replay read and sent.

    ``packets_read == packets_accepted + sum(packets_skipped)``, ``packets_accepted == packets_sent +
    packets_left_out + packets_unsent``.
    """

    captures: list[str]
    packets_read: int = 0
    packets_accepted: int = 0
    packets_skipped: dict[str, int] = field(default_factory=dict)
    packets_sent: int = 0
    """Packets handed to the bus in batches."""
    packets_left_out: int = 0
    """Packets after the first of their flow (``packets.first_packets``)."""
    packets_unsent: int = 0
    """Packets decoded, but not handed over when the replay was stopped or failed."""
    times_clamped: int = 0
    """Packets whose moved time would not be a time any more, put at its limit."""
    octets: int = 0
    """IP octets of the packets sent."""
    batches: int = 0
    labels: int = 0
    packets_by_partition: list[int] = field(default_factory=list)
    batches_by_partition: list[int] = field(default_factory=list)
    """Batches with packets; an end-of-stream mark is none."""


@dataclass
class ReplaySummary:
    """What a replay did: totals over the probes, and what the bus said.

    ``packets_sent == packets_acked + packets_failed + packets_pending``, and the same for messages.
    """

    probes: dict[str, ProbeSummary]
    speed: float | None
    """None: as fast as it goes."""
    loops: int = 0
    """Loops begun."""
    duration_s: float = 0.0
    interrupted: bool = False
    packets_acked: int = 0
    packets_failed: int = 0
    packets_pending: int = 0
    messages_sent: int = 0
    messages_acked: int = 0
    messages_failed: int = 0
    messages_pending: int = 0
    message_bytes: int = 0
    end_marks: int = 0
    late_max_ns: int = 0
    """How long after its due time the latest batch of a paced replay left."""
    cpu_s: float = 0.0
    payloads: Counter[str] = field(default_factory=Counter)
    """Of the payloads, where they are published: ``packets`` = ``rows`` + ``empty`` + ``fragments`` + ``truncated`` +
    ``not_chosen``; ``sent`` rows in ``messages`` of ``message_bytes``."""
    warnings: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Return the sum of a count over the probes."""
        return sum(getattr(probe, name) for probe in self.probes.values())

    @property
    def packets_skipped(self) -> dict[str, int]:
        """Frames skipped by reason, over all probes."""
        out: dict[str, int] = {}
        for probe in self.probes.values():
            for reason, frames in probe.packets_skipped.items():
                out[reason] = out.get(reason, 0) + frames
        return out

    @property
    def packets_per_s(self) -> float:
        """Packets sent per second of the replay."""
        return self.total("packets_sent") / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def mbit_per_s(self) -> float:
        """Traffic replayed, in megabits of IP packets per second of the replay."""
        return self.total("octets") * 8e-6 / self.duration_s if self.duration_s > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for programs: plain values only."""
        return {
            "speed": "max" if self.speed is None else self.speed,
            "loops": self.loops,
            "interrupted": self.interrupted,
            "duration_s": self.duration_s,
            "cpu_s": self.cpu_s,
            "packets": {
                "read": self.total("packets_read"),
                "accepted": self.total("packets_accepted"),
                "skipped": self.packets_skipped,
                "left_out": self.total("packets_left_out"),
                "unsent": self.total("packets_unsent"),
                "sent": self.total("packets_sent"),
                "acked": self.packets_acked,
                "failed": self.packets_failed,
                "pending": self.packets_pending,
            },
            "batches": self.total("batches"),
            "labels": self.total("labels"),
            "messages": {
                "sent": self.messages_sent,
                "acked": self.messages_acked,
                "failed": self.messages_failed,
                "pending": self.messages_pending,
                "bytes": self.message_bytes,
                "end_marks": self.end_marks,
            },
            **({"payloads": dict(self.payloads)} if self.payloads else {}),
            "octets": self.total("octets"),
            "packets_per_s": self.packets_per_s,
            "mbit_per_s": self.mbit_per_s,
            "late_max_ms": self.late_max_ns / 1e6,
            "probes": {name: asdict(probe) for name, probe in self.probes.items()},
            "warnings": self.warnings,
        }
