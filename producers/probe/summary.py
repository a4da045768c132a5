"""What a live probe did, in numbers that add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from producers.summary import ProbeSummary


@dataclass
class LiveSummary:
    """What a probe saw and sent, which adds up: ``packets_seen`` is the sum of what was skipped, sent and left out.

    Packets that the kernel dropped are among those seen, and among those skipped as ``kernel_dropped``.
    """

    probe: str
    sources: list[str]
    packets_seen: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    sent: ProbeSummary = field(default_factory=lambda: ProbeSummary([]))
    events: Counter[str] = field(default_factory=Counter)
    packets_acked: int = 0
    packets_failed: int = 0
    packets_kept: int = 0
    """Left in the spool for the next start."""
    messages: int = 0
    message_bytes: int = 0
    messages_acked: int = 0
    end_marks: int = 0
    turn_max_ns: int = 0
    """Longest turn of the probe's loop without sleep, in which packets waited in the ring."""
    duration_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def packets_per_s(self) -> float:
        """Packets sent per second."""
        return self.sent.packets_sent / self.duration_s if self.duration_s > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for programs: plain values only."""
        return {
            "probe": self.probe,
            "sources": self.sources,
            "duration_s": self.duration_s,
            "cpu_s": self.cpu_s,
            "packets": {
                "seen": self.packets_seen,
                "skipped": dict(self.skipped),
                "left_out": self.sent.packets_left_out,
                "sent": self.sent.packets_sent,
                "acked": self.packets_acked,
                "failed": self.packets_failed,
                "kept": self.packets_kept,
            },
            "kernel_dropped": self.skipped["kernel_dropped"],
            "octets": self.sent.octets,
            "batches": self.sent.batches,
            "messages": {
                "sent": self.messages,
                "packets": self.sent.batches + self.end_marks,
                "acked": self.messages_acked,
                "bytes": self.message_bytes,
            },
            "turn_max_ms": self.turn_max_ns / 1e6,
            "packets_per_s": self.packets_per_s,
            "events": dict(self.events),
        }
