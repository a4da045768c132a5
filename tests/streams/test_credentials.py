"""Whether a worker may use its group, as brokers answer it; no broker here."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation

from producers.config import BusSettings
from schemas.errors import BusError
from streams import credentials
from streams.credentials import check_group

Answer = int | list[AclOperation] | None
BUS = BusSettings(security_protocol="SSL", connect_timeout_s=5)
NOT_YET = [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS]


class Groups:
    """Answers as a broker would: with an error, or with what this client may do."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers

    def describe_consumer_groups(self, groups: list[str], **_: object) -> dict[str, Future[Any]]:
        answer, future = self.answers.pop(0), Future[Any]()
        if isinstance(answer, int):
            future.set_exception(KafkaException(KafkaError(answer)))
        else:
            future.set_result(SimpleNamespace(authorized_operations=answer))
        return {groups[0]: future}


def ask(monkeypatch: pytest.MonkeyPatch, *answers: Answer, bus: BusSettings = BUS) -> list[Answer]:
    """Check the group; return the answers that were not asked for."""
    groups = Groups(list(answers))
    monkeypatch.setattr(credentials, "AdminClient", lambda _properties: groups)
    monkeypatch.setattr(credentials, "_AGAIN_S", 0.0)
    check_group(bus, "g")
    return groups.answers


@pytest.mark.parametrize(
    "answers",
    [
        [KafkaError.GROUP_AUTHORIZATION_FAILED],
        [*NOT_YET, KafkaError.GROUP_AUTHORIZATION_FAILED],
        [*NOT_YET, [AclOperation.DESCRIBE]],
    ],
)
def test_a_group_that_may_not_be_read_is_named(
    answers: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BusError, match=r"no ACL of the bus lets .* use the group g$"):
        ask(monkeypatch, *answers)


@pytest.mark.parametrize(
    "answer", [[AclOperation.READ, AclOperation.DESCRIBE], [], None, KafkaError.UNSUPPORTED_VERSION]
)
def test_what_is_not_refused_is_left_to_faust(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, *NOT_YET, answer) == []


def test_a_bus_without_accounts_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, None, bus=BusSettings()) == [None]
