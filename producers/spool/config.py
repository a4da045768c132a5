"""Settings of the queue on disk."""

from __future__ import annotations

from pydantic import Field

from schemas.settings import Settings


class SpoolSettings(Settings):
    """A bounded queue on disk for what the broker does not take: it is sent, in order, once the broker is back."""

    path: str = Field(
        default="", description="Folder of the queue, for one probe alone; empty: there is none."
    )
    max_mbytes: int = Field(
        default=1024,
        ge=1,
        le=1 << 20,
        description="Most that the queue takes on disk, in MiB; beyond, its oldest segment is dropped, and counted.",
    )
    segment_mbytes: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Size of the queue's files, in MiB; several fit into `max_mbytes`.",
    )
    memory_kbytes: int = Field(
        default=16_384,
        ge=1024,
        le=1 << 20,
        description="Most that waits in memory for the broker's answers, in KiB; what comes then goes to disk.",
    )
    after_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="How long the broker may owe an answer before everything without one goes to disk, in s; "
        "0: everything goes to disk first, always.",
    )
    sync_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="How often what was written is synced to the disk, in s: what a power cut may cost; 0: always.",
    )
    retry_s: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="Pause after the bus refused a message, until it is tried again, in s.",
    )
