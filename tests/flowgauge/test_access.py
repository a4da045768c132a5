"""Roles: each worker may use just the topics that it touches, and names are those of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AclBinding

from flowgauge.access import Grant, as_command, create, parse_holders, roles
from flowgauge.settings import Effective, load
from models.online.config import OnlineSettings
from models.online.worker import required_topics as model_topics
from producers.config import BusSettings
from schemas.errors import SettingsError
from streams.config import StreamsSettings
from streams.worker import required_topics as flows_topics


@pytest.fixture
def effective() -> Effective:
    given = ["bus.topic_prefix=x.", "models.representations=window", "streams.group=g"]
    return load(Path("/dev/null"), assignments=given, environment={})


def topics(grants: tuple[Grant, ...], operation: str = "") -> set[str]:
    return {g.name for g in grants if g.kind == "topic" and operation in g.operation}


def test_workers_may_use_what_they_touch_and_no_more(effective: Effective) -> None:
    found = roles(effective)
    wanted = flows_topics(effective.get("streams", StreamsSettings))
    assert topics(found["flows"]) == {f"x.{name}" for name, _ in wanted}
    wanted = model_topics(effective.get("models", OnlineSettings))
    assert topics(found["models"]) == {f"x.{name}" for name, _ in wanted}
    assert topics(found["models"], "Read") == {"x.features.window", "x.labels"}
    assert [g.name for g in found["flows"] if g.kind == "group"] == ["x.g"]
    assert topics(found["cascade"], "Read") == {"x.features.early", "x.flows.state", "x.labels", "x.models"}
    assert topics(found["cascade"], "Write") == {
        "x.dead-letters", "x.flows.state", "x.predictions.flow", "x.telemetry.cost",
    }  # fmt: skip
    assert [(g.name, g.prefixed) for g in found["cascade"] if g.kind == "group"] == [
        ("x.flowgauge-cascade.", True)
    ]


def test_a_cascade_may_read_payloads_where_the_settings_have_them_sent() -> None:
    given = ["bus.topic_prefix=x.", "payloads.mode=first"]
    found = roles(load(Path("/dev/null"), assignments=given, environment={}))
    assert "x.payloads" in topics(found["cascade"], "Read")


def test_what_two_roles_of_one_account_share_is_asked_for_once(
    effective: Effective, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[AclBinding] = []

    class Admin:
        def create_acls(self, bindings: list[AclBinding], **_: object) -> dict[AclBinding, object]:
            asked.extend(bindings)
            return {}

    monkeypatch.setattr("flowgauge.access.admin", lambda _bus: Admin())
    monkeypatch.setattr("flowgauge.access.broker_topics", lambda *_: {})
    found = roles(effective)
    holders = parse_holders(["models=eve", "packet-models=eve"], list(found))
    count = create(effective.get("bus", BusSettings), holders, found)
    assert count == len(asked) == len({repr(binding) for binding in asked})
    assert count < len(found["models"]) + len(found["packet-models"])


def test_a_probe_only_writes_and_a_subscriber_only_reads(effective: Effective) -> None:
    found = roles(effective)
    assert topics(found["probe"]) == topics(found["probe"], "Write") == {"x.packets", "x.telemetry.cost"}
    assert topics(found["subscriber"]) == topics(found["subscriber"], "Read")
    assert topics(found["subscriber"]) == {"x.predictions.flow", "x.predictions.packet"}
    with_payloads = load(Path("/dev/null"), assignments=["payloads.mode=first"], environment={})
    assert topics(roles(with_payloads)["probe"]) == {"packets", "payloads", "telemetry.cost"}


def test_commands_of_kafkas_own_tool(effective: Effective) -> None:
    (holder,) = parse_holders(["subscriber=alice"], ["subscriber"])
    commands = [as_command(holder, g, "b:1") for g in holder.grants(roles(effective)["subscriber"])]
    lead = "kafka-acls.sh --bootstrap-server b:1 --add --allow-principal User:alice --operation Read"
    assert commands == [
        f"{lead} --topic x.predictions.flow",
        f"{lead} --topic x.predictions.packet",
        f"{lead} --group alice --resource-pattern-type prefixed",
    ]


@pytest.mark.parametrize(
    "text", ["subscriber", "subscriber=", "nobody=alice", "subscriber=User:*", "subscriber=Group:g"]
)
def test_holders_that_are_none(text: str) -> None:
    with pytest.raises(SettingsError, match=text.partition("=")[0]):
        parse_holders([text], ["subscriber"])
