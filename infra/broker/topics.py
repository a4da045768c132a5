"""Creates topics on a broker that answers admin requests (the embedded one does not)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.errors import BusError


def create_topics(
    bootstrap: str,
    topics: Mapping[str, tuple[int, Mapping[str, str]]],
    timeout_s: float = 30.0,
    client: Mapping[str, Any] | None = None,
) -> None:
    """Create topics, each name with its partitions and its broker settings, and wait until they exist.

    A topic that exists already stays as it is. ``client`` are more properties of librdkafka.

    Raises:
        BusError: the broker cannot be reached or refuses a topic; the message names it.
    """
    wanted = [
        NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config))
        for name, (partitions, config) in topics.items()
    ]
    if not wanted:
        return
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **(client or {})})
    for name, future in admin.create_topics(wanted, request_timeout=timeout_s).items():
        try:
            future.result(timeout=timeout_s + 5)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BusError(f"{bootstrap}: cannot create topic {name}: {reason.str()}") from error
        except TimeoutError as error:
            raise BusError(f"{bootstrap}: no answer while creating topic {name}") from error
