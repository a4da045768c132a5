"""The bus as the command line sees it: whether it answers, and which topics it has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from flowgauge.settings import Effective
from producers.config import BusSettings, topic_name
from producers.security.clients import Trouble, client_properties, said
from schemas.errors import BusError
from schemas.topics import DAY_MS, TOPICS, Topic
from streams.config import StreamsSettings

TIMEOUT_S = 10.0
_BROKER_DEFAULT = -1
_POLL_S = 0.1
_TRY_S = 1.0


@dataclass(frozen=True)
class TopicState:
    """A topic that the settings ask for, as the broker has it; ``problem`` is empty when they agree."""

    name: str
    doc: str
    wanted_partitions: int
    partitions: int
    """0 where the topic is missing."""
    problem: str
    compared: bool
    """Whether the broker told the topic's settings, so that they could be compared too."""


def project_topics(streams: StreamsSettings) -> dict[str, Topic]:
    """Return the project's topics by plain name, those of configured representations included."""
    out = {topic.name: topic for topic in TOPICS}
    for representation in streams.computed:
        name = f"features.{representation.name}"
        out.setdefault(
            name,
            Topic(
                name,
                "FeatureBatch",
                f"feature rows of the representation {representation.name}",
                config={"retention.ms": str(DAY_MS)},
            ),
        )
    return out


class Admin(AdminClient):  # type: ignore[misc]
    """An admin client that knows why a broker did not let it in."""

    def __init__(self, bus: BusSettings) -> None:
        self.trouble = Trouble(bus)
        super().__init__(client_properties(bus, trouble=self.trouble))


def admin(bus: BusSettings) -> Admin:
    """Return an admin client that reads the broker's metadata.

    Raises:
        BusError: the settings are none that a client takes.
    """
    try:
        return Admin(bus)
    except (KafkaException, ValueError, TypeError) as error:
        raise BusError(f"bus {bus.bootstrap}: {said(error)}") from error


def broker_topics(client: Admin, bus: BusSettings) -> dict[str, int]:
    """Return the partitions of every topic that the broker shows, by full name.

    Raises:
        BusError: no broker answers, or it does not let this process in.
    """
    deadline = time.monotonic() + bus.connect_timeout_s
    while True:
        try:
            found = client.list_topics(timeout=max(_POLL_S, min(_TRY_S, deadline - time.monotonic())))
        except KafkaException as error:
            client.poll(0)
            why = client.trouble.reason(error)
            if client.trouble.refused:
                raise BusError(f"bus {bus.bootstrap}: {why}") from error
            if time.monotonic() >= deadline:
                raise BusError(f"no broker answers at {bus.bootstrap}: {why}") from error
        else:
            return {
                name: len(topic.partitions) for name, topic in found.topics.items() if topic.error is None
            }


def topic_states(effective: Effective) -> list[TopicState]:
    """Return every topic that the settings ask for, and what is wrong with it on the broker."""
    bus = effective.get("bus", BusSettings)
    client = admin(bus)
    there = broker_topics(client, bus)
    topics = project_topics(effective.get("streams", StreamsSettings))
    configs = _configs(
        client,
        [topic_name(bus, name) for name in topics if topic_name(bus, name) in there],
        bus.connect_timeout_s,
    )
    states = []
    for topic in topics.values():
        name, wanted = topic_name(bus, topic.name), topic.partitions(bus.partitions)
        problem = _problem(name, wanted, there.get(name, 0), topic.config, configs.get(name))
        states.append(TopicState(name, topic.doc, wanted, there.get(name, 0), problem, name in configs))
    return states


def _problem(
    name: str, wanted: int, partitions: int, config: Mapping[str, str], found: Mapping[str, str] | None
) -> str:
    if not partitions:
        return f"topic {name} is missing (flowgauge topics --create makes it)"
    if partitions != wanted:
        return f"topic {name} has {partitions} partitions, bus.partitions asks for {wanted}"
    for key, value in config.items() if found is not None else ():
        if found is not None and found.get(key) != value:
            return f"topic {name} has {key} = {found.get(key)}, not {value}"
    return ""


def _configs(client: Admin, names: list[str], timeout_s: float) -> dict[str, dict[str, str]]:
    """Return broker settings by topic; empty where the broker has no such request (the embedded one)."""
    out: dict[str, dict[str, str]] = {}
    if not names:
        return out
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for resource, future in client.describe_configs(resources, request_timeout=timeout_s).items():
        try:
            entries: Mapping[str, Any] = future.result(timeout=timeout_s)
        except (KafkaException, TimeoutError):
            continue
        out[resource.name] = {key: entry.value for key, entry in entries.items()}
    return out


def create_missing(effective: Effective) -> list[str]:
    """Create the topics that are missing, with the broker's own default for replicas; return their names.

    Raises:
        BusError: the broker cannot be reached or refuses a topic.
    """
    bus = effective.get("bus", BusSettings)
    missing = {state.name: state for state in topic_states(effective) if not state.partitions}
    topics = project_topics(effective.get("streams", StreamsSettings))
    configs = {topic_name(bus, topic.name): topic.config for topic in topics.values()}
    new = [
        NewTopic(
            name,
            num_partitions=state.wanted_partitions,
            replication_factor=_BROKER_DEFAULT,
            config=dict(configs[name]),
        )
        for name, state in missing.items()
    ]
    if not new:
        return []
    client = admin(bus)  # it must live until the answers are in
    for name, future in client.create_topics(new, request_timeout=TIMEOUT_S).items():
        try:
            future.result(timeout=TIMEOUT_S + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BusError(f"{bus.bootstrap}: cannot create topic {name}: {said(error)}") from error
        except TimeoutError as error:
            raise BusError(f"{bus.bootstrap}: no answer while creating topic {name}") from error
    _await_topics(client, bus, set(missing))
    return list(missing)


def _await_topics(client: Admin, bus: BusSettings, names: set[str]) -> None:
    """Wait until the broker lists new topics: it creates them in its log first and serves them a moment later."""
    deadline = time.monotonic() + TIMEOUT_S
    while not names <= broker_topics(client, bus).keys():
        if time.monotonic() > deadline:
            raise BusError(f"{bus.bootstrap}: new topics are not served after {TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)
