"""A real Kafka broker for the whole session, from the first source that this machine has."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from infra.broker.jvm import find_java, install
from infra.broker.kafka import KafkaBroker
from infra.broker.topics import create_topics
from schemas.errors import BusError
from tests.broker.pipeline import Pipeline


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.broker)


def _unavailable(reasons: list[str]) -> NoReturn:
    message = "no Kafka broker to test on: " + "; ".join(reasons)
    if os.environ.get("FLOWGAUGE_CI") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _container() -> Any:
    """Return a started Kafka container, or a string that says why there is none."""
    try:
        docker = importlib.import_module("docker")
        kafka = importlib.import_module("testcontainers.community.kafka")
    except ImportError:
        return "testcontainers is not installed"
    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        return f"Docker does not answer ({str(error).splitlines()[0]})"
    return kafka.KafkaContainer("confluentinc/cp-kafka:8.0.0").with_kraft().start()


@pytest.fixture(scope="session")
def _source() -> Iterator[tuple[str, KafkaBroker | None]]:
    """Address of a broker, and the broker where it is a process of ours."""
    external = os.environ.get("KAFKA_BOOTSTRAP")
    if external:
        yield external, None
        return
    reasons = []
    try:
        find_java()
        install()
    except BusError as error:
        reasons.append(str(error))
    else:
        # A broker that has all it needs and still does not start is a failure, not a reason to skip.
        with KafkaBroker() as broker:
            yield broker.bootstrap, broker
        return
    container = _container()
    if isinstance(container, str):
        _unavailable([*reasons, container])
    try:
        yield container.get_bootstrap_server(), None
    finally:
        container.stop()


@pytest.fixture(scope="session")
def bootstrap(_source: tuple[str, KafkaBroker | None]) -> str:
    """Address of the session's Kafka broker."""
    return _source[0]


@pytest.fixture(scope="session")
def broker(_source: tuple[str, KafkaBroker | None]) -> KafkaBroker:
    """The session's broker as a process that a test may restart; skips when it is not ours."""
    if _source[1] is None:
        pytest.skip(
            "the broker is not started by the tests (KAFKA_BOOTSTRAP or a container): it is not restarted"
        )
    return _source[1]


@pytest.fixture
def topic_prefix() -> str:
    """What a test begins its topic and group names with, so that tests do not meet; ends with a dot."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def make_topics(bootstrap: str, topic_prefix: str) -> Callable[..., dict[str, str]]:
    """Create topics: ``make_topics(partitions, *names, config=None)`` gives full names by short name."""

    def make(partitions: int, *names: str, config: Mapping[str, str] | None = None) -> dict[str, str]:
        full = {name: topic_prefix + name for name in names}
        create_topics(bootstrap, {name: (partitions, config or {}) for name in full.values()})
        return full

    return make


@pytest.fixture
def pipeline(broker: object, bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[Pipeline]:
    """Topics of their own for workers that are killed and started again, on a broker that allows short sessions."""
    made = Pipeline(bootstrap, topic_prefix, tmp_path, forked=True)
    made.create_topics()
    yield made
    made.end()
