"""``flowgauge topics``, ``check --bus``, ``replay`` and ``tail`` on a real Kafka broker."""

from __future__ import annotations

import json

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from flowgauge.cli import invoke
from schemas.topics import TOPICS
from tests.flowgauge.test_command import PCAP_HEAD
from tests.waiting import wait_until


def flags(bootstrap: str, prefix: str, partitions: int = 3) -> list[str]:
    values = (f"bus.bootstrap={bootstrap}", f"bus.topic_prefix={prefix}", f"bus.partitions={partitions}")
    return [part for value in values for part in ("--set", value)]


def test_topics_are_created_once_and_compared(
    bootstrap: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = flags(bootstrap, topic_prefix)
    assert invoke(["topics", *mine]) == 1
    assert f"topic {topic_prefix}packets is missing" in capsys.readouterr().err
    assert invoke(["topics", "--create", "--json", *mine]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found["created"]) == sorted(topic_prefix + topic.name for topic in TOPICS)
    assert {t["name"]: t["partitions"] for t in found["topics"]} == {
        topic_prefix + topic.name: topic.partitions(3) for topic in TOPICS
    }
    assert all(t["compared"] and not t["problem"] for t in found["topics"])
    assert invoke(["topics", "--create", "--json", *mine]) == 0
    assert json.loads(capsys.readouterr().out)["created"] == []
    assert invoke(["check", "--bus", *mine]) == 0
    assert capsys.readouterr().err == "flowgauge: the broker answers and has every topic\n"


def test_a_topic_with_other_settings_is_named(
    bootstrap: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = flags(bootstrap, topic_prefix)
    assert invoke(["topics", "--create", *mine]) == 0
    name = f"{topic_prefix}flows.state"
    entry = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": bootstrap})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(timeout=20)
    # The broker takes a moment to go by a changed setting.
    wait_until(lambda: invoke(["topics", *mine]) == 1, 20)
    capsys.readouterr()
    assert invoke(["check", "--bus", *mine]) == 1
    assert f"topic {name} has cleanup.policy = delete, not compact" in capsys.readouterr().err


def test_a_replay_of_nothing_marks_the_end_of_every_partition(
    bootstrap: str,
    topic_prefix: str,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capture = tmp_path_factory.mktemp("captures") / "none.pcap"
    capture.write_bytes(PCAP_HEAD)
    mine = flags(bootstrap, topic_prefix)
    assert invoke(["topics", "--create", *mine]) == 0
    capsys.readouterr()
    assert not invoke(["replay", str(capture), "--speed", "max", "--json", *mine])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["packets"]["sent"], summary["messages"]["end_marks"]) == (0, 3)
    assert not invoke(["tail", "packets", "--no-follow", "--json", *mine])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["kafka_partition"] for row in rows) == [0, 1, 2]
    assert all(row["end_of_stream"] and row["kafka_topic"] == f"{topic_prefix}packets" for row in rows)
