"""Why a topic that a process needs is not there for it: it does not exist, or the bus's ACLs hide it."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from producers.config import BusSettings
from producers.security.clients import account, client_properties, forbidden

_TIMEOUT_S = 10.0


def why_missing(bus: BusSettings, topics: Sequence[str]) -> str:
    """Return in one clause what is wrong with topics (full names) that a broker's list lacks.

    Asking never creates them, as asking for a topic's metadata may.
    """
    if hidden := hidden_topics(bus, topics):
        return hidden
    if len(topics) == 1:
        return f"there is no topic {topics[0]}; flowgauge topics --create makes it"
    return f"missing topics: {', '.join(topics)}; flowgauge topics --create makes them"


def hidden_topics(bus: BusSettings, topics: Sequence[str]) -> str:
    """Return that ACLs hide some of the topics, and which; empty where they do not."""
    hidden = [name for name, error in _errors(bus, topics).items() if forbidden(error)]
    return f"no ACL of the bus lets {account(bus)} see {', '.join(hidden)}" if hidden else ""


def _errors(bus: BusSettings, topics: Sequence[str]) -> dict[str, Exception]:
    client = AdminClient(client_properties(bus))
    found: dict[str, Exception] = {}
    if not _has_controller(client):
        return found
    asked = client.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_S)
    for name, future in asked.items():
        try:
            future.result(_TIMEOUT_S + 1)
        except (KafkaException, TimeoutError) as error:
            found[name] = error
    return found


def _has_controller(client: AdminClient) -> bool:
    """Return whether the bus has a controller, without which librdkafka asks nothing: the embedded broker has none."""
    try:
        bus = client.list_topics(timeout=_TIMEOUT_S)
    except KafkaException:
        return False
    return bus.controller_id in bus.brokers
