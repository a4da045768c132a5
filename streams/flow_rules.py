"""When flows end, as a probe takes it that follows them, and which packets it sends."""

from __future__ import annotations

from producers.config import PacketsSettings
from producers.first_packets import SIGN_OF_LIFE_NS, Selection
from producers.followed import FlowRules
from streams.config import StreamsSettings


def flow_rules(streams: StreamsSettings) -> FlowRules:
    """Return when the flows agent ends flows."""
    return FlowRules(
        round(streams.idle_timeout_s * 1e9),
        round(streams.active_timeout_s * 1e9),
        round(streams.tcp_linger_s * 1e9),
        round(streams.lateness_s * 1e9),
    )


def first_packets(packets: PacketsSettings, streams: StreamsSettings) -> Selection | None:
    """Return which packets a probe sends; None: all.

    A flow is heard of often enough that it does not end, and that a probe all of whose flows are old is not taken
    for silent.
    """
    if not packets.first_packets:
        return None
    heard_s = min(streams.idle_timeout_s / 2, streams.silence_s * 0.8, streams.probe_silence_s * 0.8)
    sign_of_life_ns = min(SIGN_OF_LIFE_NS, round(heard_s * 1e9))
    return Selection(packets.first_packets, packets.max_flows, flow_rules(streams), sign_of_life_ns)
