from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer

import flowgauge.commands
from flowgauge.framing import start_framing
from flowgauge.settings import load
from infra.broker.embedded import EmbeddedBroker
from schemas import codec
from schemas.topics import TOPICS
from tests.producers.frames import mixed_records, pcap
from tests.schemas.messages import RECORDS
from tests.schemas.registry_server import RegistryServer

COMMANDS = Path(flowgauge.commands.__file__).parent


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server
    codec.use_framing(None)


def flowgauge_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowgauge", *arguments], capture_output=True, text=True, timeout=60
    )


def test_without_a_registry_nothing_is_asked() -> None:
    start_framing(load(environment={}))
    assert codec.encode("Label", RECORDS["Label"])[:2] == codec.MARKER


def test_every_topic_of_the_settings_has_its_subject(server: RegistryServer) -> None:
    representation = '[{name = "fast", kind = "window", every_s = 0.5, features = ["totals"]}]'
    start_framing(
        load(
            flags={"bus.registry_url": server.url, "bus.topic_prefix": "lab."},
            environment={"FLOWGAUGE_STREAMS__REPRESENTATIONS": representation},
        )
    )
    assert set(server.subjects) == {f"lab.{t.name}-value" for t in TOPICS} | {"lab.features.fast-value"}


def test_every_command_that_talks_to_the_bus_frames_its_messages_first() -> None:
    talking = {
        path.stem: path.read_text(encoding="utf-8")
        for path in COMMANDS.glob("*.py")
        if "options.Bus" in path.read_text(encoding="utf-8")
    }
    # `topics` and `acls` ask the broker about those and touch no message; `bench` has a bus of its own.
    for name, text in talking.items():
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert "start_framing" in calls or name in ("topics", "acls"), (
            f"flowgauge {name} ignores bus.registry_url"
        )


@pytest.mark.parametrize("command", [("tail", "labels"), ("streams",)])
def test_an_absent_registry_ends_the_command_with_one_line(command: tuple[str, ...]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = flowgauge_command(*command, "--set", f"bus.registry_url={url}")
    assert done.returncode == 4, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"flowgauge: error: schema registry {url}: cannot be reached")


def test_a_capture_travels_with_registered_schemas(
    server: RegistryServer, embedded: EmbeddedBroker, tmp_path: Path
) -> None:
    for topic in TOPICS:
        embedded.create_topic(topic.name, topic.partitions(8))
    capture = tmp_path / "c.pcap"
    capture.write_bytes(pcap(mixed_records(5)))
    options = ("--bus", embedded.bootstrap, "--set", f"bus.registry_url={server.url}")
    replayed = flowgauge_command("replay", str(capture), "--speed", "max", "--json", *options)
    assert replayed.returncode == 0, replayed.stderr

    consumer = Consumer(
        {"bootstrap.servers": embedded.bootstrap, "group.id": "t", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["packets"])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None and message.error() is None
    (number,) = server.subjects["packets-value"].values()
    assert message.value()[:5] == b"\x00" + number.to_bytes(4, "big")

    told = flowgauge_command("tail", "packets", "--no-follow", "--json", *options)
    assert told.returncode == 0, told.stderr
    sent = json.loads(replayed.stdout)["packets"]["sent"]
    assert sent > 0
    assert sum(json.loads(line)["packets"] for line in told.stdout.splitlines()) == sent
