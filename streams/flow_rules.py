"""When flows end, as the payload sampler takes it."""

from __future__ import annotations

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
