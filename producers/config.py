"""Settings of the bus connection, which every stage shares, and of the replay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from producers.security.config import SecuritySettings
from schemas.packets import MAX_HEAD_OCTETS, MAX_PACKETS, Extra
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS
from schemas.settings import Settings
from schemas.topics import PARTITIONS


class BusSettings(SecuritySettings):
    """How to reach the bus and how to produce to it."""

    partitions: int = Field(
        default=PARTITIONS, ge=1, le=4096, description="Partitions that flows are split over."
    )
    topic_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]*$",
        max_length=100,
        description="Put before the name of every topic.",
    )
    linger_ms: float = Field(
        default=0.5,
        ge=0,
        le=1000,
        description="How long a message may wait for others to share a request, in ms; batches of "
        "packets and payloads do not.",
    )
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = Field(
        default="none",
        description="Compression of requests; none costs the least CPU, consumers need the codec.",
    )
    queue_kbytes: int = Field(
        default=65_536,
        ge=1024,
        le=2_097_151,
        description="Most that waits in memory for the broker, in KiB: of batches of packets "
        "and payloads, and as much again of all else.",
    )
    connect_timeout_s: float = Field(
        default=20.0, gt=0, le=60, description="How long an absent broker is waited for at the start, in s."
    )
    delivery_timeout_s: float = Field(
        default=60.0, gt=0, le=3600, description="How long a message is tried to be delivered, in s."
    )
    registry_url: str = Field(
        default="",
        description="Schema registry (Confluent's interface), http[s]://host:port; empty: none, "
        "messages name their schema by its fingerprint.",
    )
    registry_register: bool = Field(
        default=True, description="Register the schemas at the start; false: somebody else has."
    )
    registry_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="How long the registry may take at the start, in s."
    )
    client: dict[str, str] = Field(
        default_factory=dict,
        description="More librdkafka properties; they win, and Faust's client does not see them.",
    )


def topic_name(settings: BusSettings, name: str) -> str:
    """Return a topic's name on the bus, from its name in ``schemas.topics``."""
    return settings.topic_prefix + name


class MetricsSettings(Settings):
    """The port of a process for Prometheus (``/metrics``) and health checks (``/health``)."""

    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port of /metrics for Prometheus and /health; 0: none."
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that the metrics port listens on."
    )
    stall_s: float = Field(
        default=15.0,
        ge=1,
        le=3600,
        description="Seconds without progress, while messages wait, after which /health says 503.",
    )


class PacketsSettings(Settings):
    """Which packets are sent, and what of each beyond the columns that every batch has. What the features chosen in
    the same settings file need is sent without being named here."""

    first_packets: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Send only the first packets of each flow, so many, those that end it, those that tell names, and "
        "one every 4 s, so that it stays open; 0: all. Early rows up to this depth stay what they are; totals, "
        "windows and flow records count what was sent.",
    )
    max_flows: int = Field(
        default=1 << 18,
        ge=16,
        le=1 << 26,
        description="Most flows per source that `first_packets` follows; beyond, the longest silent of 16 is "
        "forgotten, and its first packets are sent again.",
    )

    columns: tuple[Literal["tcp", "head", "direction"], ...] = Field(
        default=(),
        description="tcp: sequence and acknowledgment numbers (8 bytes a packet); head: the first octets of "
        "the first packets of each flow, addresses set to 0; direction: which way a packet crossed the observation "
        "point (1 byte a packet), which live probes know (probe.direction).",
    )
    head_packets: int = Field(
        default=8, ge=1, le=64, description="Of how many first packets of each flow the head is sent."
    )
    head_octets: int = Field(
        default=128, ge=20, le=MAX_HEAD_OCTETS, description="Most octets of a head, from the IP header on."
    )

    @property
    def extra(self) -> Extra:
        """Return the columns asked for here."""
        heads = (self.head_packets, self.head_octets) if "head" in self.columns else (0, 0)
        return Extra("tcp" in self.columns, *heads, "direction" in self.columns)


class SendingSettings(MetricsSettings):
    """How decoded packets become messages, for whatever produces them."""

    linger_ms: float = Field(
        default=10.0,
        gt=0,
        le=1000,
        description="Longest that a due packet waits for its batch to fill, in ms.",
    )
    batch_packets: int = Field(
        default=MAX_PACKETS, ge=1, le=MAX_PACKETS, description="Packets in a full batch."
    )
    block_packets: int = Field(default=8192, ge=1, le=1 << 20, description="Packets decoded at once.")
    drain_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="How long the end waits for the broker, in s."
    )
    telemetry_interval_s: float = Field(
        default=1.0, ge=0, description="Time between two records on telemetry.cost, in s; 0: none."
    )
    names: bool = Field(
        default=False,
        description="Look for the names of servers (DNS answers, TLS and QUIC server names, HTTP hosts) and tell "
        "them on the bus. It is done anyway where streams.services has a service.",
    )


class ReplaySettings(SendingSettings):
    """How captures are replayed into the bus."""

    rebase: Literal["now", "keep"] = Field(
        default="now",
        description="now: the first packet gets the time of the start; keep: times stay as captured.",
    )
    max_gap_s: float = Field(
        default=60.0,
        gt=0,
        description="Longest silence of a capture that a paced replay waits out, in s of event time.",
    )
    label_delay_s: float = Field(
        default=1.0,
        ge=0,
        description="How long after a flow's end its label is published, in s of event time.",
    )


class PayloadSettings(Settings):
    """Which packets' first payload octets a probe publishes on ``payloads``: none, unless it is asked for."""

    mode: Literal["off", "first", "sample"] = Field(
        default="off",
        description="first: the first packets with payload of each flow; sample: one packet with payload in "
        "`one_in`; off: none.",
    )
    first_packets: int = Field(
        default=3, ge=1, le=1_000_000, description="Packets with payload of each flow, in mode first."
    )
    one_in: int = Field(
        default=100, ge=1, le=1_000_000_000, description="Of how many packets one is taken, in mode sample."
    )
    octets: int = Field(
        default=FIRST_OCTETS,
        gt=MASKED_OCTETS,
        le=FIRST_OCTETS,
        description="Octets of the IP payload; the first 20, the transport header, are never sent.",
    )
    max_flows: int = Field(
        default=1 << 18,
        ge=16,
        le=1 << 26,
        description="Most flows per probe whose packets are counted; beyond, the longest silent of 16 is forgotten.",
    )
