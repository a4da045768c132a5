"""Settings of the live probe."""

from __future__ import annotations

import ipaddress
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from producers.config import SendingSettings
from producers.probe.ring.direction import parse_mac

MAX_PROCESSES = 8
"""Each process is an epoch of its own, and the flows agent remembers a bounded number of epochs."""


RELOADED = frozenset(
    {"filter", "names", "linger_ms", "telemetry_interval_s", "drain_timeout_s", "log_level", "log_interval_s"}
)
"""Settings that a running probe takes in on SIGHUP; the others need a restart."""


class ProbeSettings(SendingSettings):
    """What a live probe captures, and how."""

    name: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="Name of the probe on the bus; empty: the host's name.",
    )
    interfaces: tuple[str, ...] = Field(default=(), description="Interfaces to capture from.")
    sources: tuple[str, ...] = Field(
        default=(),
        description="More to capture from: tcp://host:port calls a sensor that sends a pcap stream (pcap-over-IP), "
        "tcp-listen://host:port waits for those that call; tshark://IF captures from an interface, tshark:///file "
        "reads a capture, and tshark_fields go to packets.fields.",
    )
    tshark_fields: tuple[str, ...] = Field(
        default=(),
        description="Display-filter fields of each packet, such as tls.handshake.ja3, that tshark tells; it is slow.",
    )
    watch: str = Field(
        default="",
        description="Folder that captures are written into (tcpdump -G); each file is read in order.",
    )
    watch_pattern: str = Field(
        default="*.pcap*", min_length=1, description="Names of those files, * for anything."
    )
    watch_follow: bool = Field(
        default=False, description="Read the newest file while it grows; else once it is complete."
    )
    watch_quiet_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="The newest file is complete when it has not changed for so long, in s; others are at once.",
    )
    watch_after: Literal["keep", "delete", "move"] = Field(
        default="keep", description="What becomes of a file once the bus has its packets."
    )
    watch_move_to: str = Field(default="", description="Folder to move files to, on the same file system.")
    watch_state: str = Field(
        default="",
        description="File that remembers what was read; empty: .flowgauge-NAME.json in the folder watched.",
    )
    filter: str = Field(
        default="", description="Capture filter as tcpdump takes it, run in the kernel; needs libpcap."
    )
    promiscuous: bool = Field(
        default=True, description="Have the interface take in frames for other stations too."
    )
    outgoing: bool = Field(
        default=True,
        description="Also take packets that this machine sends out of the interface. Without, a router that "
        "captures on all its interfaces sees each forwarded packet once.",
    )
    direction: Literal["interface", "mac", "prefix"] = Field(
        default="interface",
        description="What tells which way a packet goes, where packets.columns has direction. interface: egress is "
        "what this machine sends; mac: what one of direction_macs sends; prefix: what goes from inside one of "
        "direction_prefixes out of all of them.",
    )
    direction_macs: tuple[str, ...] = Field(
        default=(),
        description="MAC addresses of the network that is observed: its router's, on a mirror port.",
    )
    direction_prefixes: tuple[str, ...] = Field(
        default=(), description="Prefixes of the network that is observed, as 192.0.2.0/24 or 2001:db8::/32."
    )
    timestamps: Literal["kernel", "hardware"] = Field(
        default="kernel",
        description="hardware: the interface's own clock, where its driver has one; both in ns.",
    )
    snap_octets: int = Field(
        default=0,
        ge=0,
        le=262_144,
        description="Octets of each frame to copy into the ring; 0: what is needed, 256 for headers, all where "
        "names, payloads or heads are looked for.",
    )
    ring_mbytes: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Size of each ring, in MiB: interfaces × processes of them are allocated.",
    )
    block_kbytes: int = Field(
        default=512, ge=64, le=4096, description="Size of a ring's blocks, in KiB; a power of two."
    )
    block_timeout_ms: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="After how long the kernel hands over a block that is not full, in ms.",
    )
    processes: int = Field(
        default=1, ge=1, le=MAX_PROCESSES, description="Processes that share the packets of each interface."
    )
    fanout: Literal["hash", "cpu"] = Field(
        default="hash",
        description="How the kernel shares them: by flow, or by the CPU that received them. By CPU a flow's packets "
        "may come out of order, unless the interface spreads flows over CPUs by itself (RSS).",
    )
    user: str = Field(
        default="nobody",
        description="User to become once everything is open, where the probe is started as root; empty: stay root.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level of what is logged."
    )
    log_interval_s: float = Field(
        default=10.0, ge=0, le=3600, description="Time between two log lines that say the same, in s."
    )

    @field_validator("direction_macs")
    @classmethod
    def _are_macs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_mac(text)
        return value

    @field_validator("direction_prefixes")
    @classmethod
    def _are_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text)
        return value

    @model_validator(mode="after")
    def _has_what_tells_the_direction(self) -> Self:
        lists = {"mac": self.direction_macs, "prefix": self.direction_prefixes}
        if not lists.get(self.direction, ("",)):
            raise ValueError(f"direction = {self.direction!r} needs a list, which is empty")
        return self

    @model_validator(mode="after")
    def _move_has_a_place(self) -> Self:
        if (self.watch_after == "move") != bool(self.watch_move_to):
            raise ValueError("watch_after = move and watch_move_to go together")
        return self

    @field_validator("block_kbytes")
    @classmethod
    def _is_a_power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("a power of two is needed")
        return value
