"""A bus that asks who is there: the whole path over TLS with accounts of every kind, and what each may not do."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from flowgauge import outcome
from flowgauge.cli import invoke
from flowgauge.settings_values import toml_value
from infra.broker.jvm import find_java, install
from infra.broker.kafka import KafkaBroker
from infra.broker.secured import Secured
from producers.bus import BusProducer
from producers.config import BusSettings
from producers.security.clients import client_properties
from schemas.codec import decode
from schemas.errors import BusError
from tests.broker.conftest import _unavailable
from tests.broker.forked import Forked
from tests.broker.pipeline import offline_prediction_ids
from tests.waiting import wait_until

PARTITIONS = 4
LIFE_S = 15
ACCOUNTS = {
    "gateway": "SCRAM-SHA-512",
    "flows-1": "SCRAM-SHA-512",
    "alice": "SCRAM-SHA-256",
    "eve": "SCRAM-SHA-512",
    "bytes-1": "SCRAM-SHA-512",
}
ROLES = [
    "replay=replayer",
    "probe=gateway",
    "flows=flows-1",
    "models=models-1",
    "subscriber=alice",
    "flows=eve",
    "packet-models=bytes-1",
]


def unsigned_token(subject: str, life_s: float = 3600) -> str:
    """Return a JWS without a signature, as Kafka takes it where no keys are configured."""
    now_s = time.time()
    claims = {"sub": subject, "iat": now_s - 7200, "exp": now_s + life_s}
    parts = (
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none"}, claims)
    )
    return ".".join((*parts, ""))


class TokenServer(BaseHTTPRequestHandler):
    """Gives the client models-1, who knows its secret, tokens that do not last long."""

    given = 0

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        client = b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        good = client == "models-1:s%2F1" and body["grant_type"] == ["client_credentials"]
        answer = (
            {"access_token": unsigned_token("models-1", LIFE_S), "expires_in": LIFE_S, "token_type": "Bearer"}
            if good
            else {"error": "invalid_client"}
        )
        TokenServer.given += good
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@dataclass
class SecureBus:
    """A secured broker, settings of clients that it knows, and commands on it."""

    broker: KafkaBroker
    secured: Secured
    folder: Path
    token_url: str
    processes: list[Forked] = field(default_factory=list)

    def certificate(self, name: str) -> dict[str, Any]:
        """Return settings of a client that shows a certificate."""
        paths = [self.secured.folder / f"{name}.{kind}" for kind in ("pem", "key")]
        if not paths[0].exists():
            self.secured.authority.issue(name)
        return {
            **self._common(self.broker.bootstrap),
            "security_protocol": "SSL",
            "tls_certificate": str(paths[0]),
            "tls_key": str(paths[1]),
        }

    def account(self, name: str, password: str = "") -> dict[str, Any]:
        """Return settings of a client with an account."""
        file = self.folder / f"{name}.{password or 'right'}.password"
        file.write_text(f"{password or f'password of {name}'}\n", encoding="utf-8")
        return {
            **self._common(self.secured.accounts),
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": ACCOUNTS.get(name, "SCRAM-SHA-512"),
            "sasl_username": name,
            "sasl_password_file": str(file),
        }

    def token(self, **how: Any) -> dict[str, Any]:
        """Return settings of a client with a token."""
        return {
            **self._common(self.secured.accounts),
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            **how,
        }

    def client_credentials(self, secret: str = "s/1") -> dict[str, Any]:
        file = self.folder / f"secret{len(secret)}"
        file.write_text(secret, encoding="utf-8")
        client = {"oauth_client_id": "models-1", "oauth_client_secret_file": str(file)}
        return self.token(oauth_token_url=self.token_url, **client)

    def _common(self, bootstrap: str) -> dict[str, Any]:
        return {"bootstrap": bootstrap, "tls_ca": str(self.secured.authority.ca), "partitions": PARTITIONS}

    def arguments(
        self, bus: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[str]:
        """Return the flag of a settings file that says all this."""
        sections = {"bus": bus, **(more or {})}
        text = "".join(
            f"[{name}]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in section.items())
            for name, section in sections.items()
        )
        file = self.folder / f"settings{abs(hash(text))}.toml"
        file.write_text(text, encoding="utf-8")
        return ["--config", str(file)]

    def start(self, command: str, bus: Mapping[str, Any], **section: Any) -> tuple[Forked, Path]:
        """Start a worker; return it and the file of its stderr."""
        name = f"{command}{len(self.processes)}"
        out, err = (self.folder / f"{name}.{kind}" for kind in ("out", "err"))
        more = {
            command: {
                "session_timeout_s": 6,
                "commit_interval_s": 0.2,
                "telemetry_interval_s": 0.5,
                **section,
            }
        }
        self.processes.append(Forked([command, *self.arguments(bus, more)], out, err))
        return self.processes[-1], err

    def operator(self) -> Consumer:
        return Consumer(
            client_properties(
                BusSettings(**self.certificate("operator")), {"group.id": "o", "enable.auto.commit": False}
            )
        )


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBus]:
    """One secured broker with topics, accounts and ACLs for all tests of this module."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        pytest.skip(
            "the broker is not started by the tests (KAFKA_BOOTSTRAP): its security is not ours to set"
        )
    try:
        find_java()
        install()
    except BusError as error:
        _unavailable([str(error)])
    folder = tmp_path_factory.mktemp("secured")
    server = HTTPServer(("127.0.0.1", 0), TokenServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secured = Secured(folder / "certificates")
    with KafkaBroker(secured=secured) as broker:
        made = SecureBus(broker, secured, folder, f"http://127.0.0.1:{server.server_address[1]}/token")
        for name, mechanism in ACCOUNTS.items():
            secured.add_account(broker.bootstrap, name, f"password of {name}", mechanism)
        operator = made.arguments(made.certificate("operator"))
        assert invoke(["topics", "--create", *operator]) == 0
        assert invoke(["acls", *ROLES, "--create", *operator]) == 0
        try:
            yield made
        finally:
            for process in made.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
            server.shutdown()
            server.server_close()


def predictions(bus: SecureBus, consumer: Consumer, found: set[str]) -> set[str]:
    """Add the ids of the predictions that have come since."""
    for message in consumer.consume(1000, timeout=0.2):
        assert message.error() is None, message.error()
        found.add(decode("Prediction", message.value())["prediction_id"])
    return found


@pytest.mark.timeout(600)
def test_the_whole_path_over_tls(
    bus: SecureBus, demo_capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows, _ = bus.start("streams", bus.account("flows-1"), silence_s=600)
    models, _ = bus.start(
        "models", bus.client_credentials(), classifier="naive_bayes", state_dir=str(bus.folder / "models")
    )
    replayed = ["replay", str(demo_capture), "--speed", "max", "--probe", "gate"]
    assert (
        invoke([*replayed, *bus.arguments(bus.certificate("replayer"), {"replay": {"rebase": "keep"}})]) == 0
    )
    consumer, found = bus.operator(), set[str]()
    consumer.assign([TopicPartition("predictions.flow", p, 0) for p in range(PARTITIONS)])
    expected = offline_prediction_ids(str(demo_capture))
    wait_until(lambda: len(predictions(bus, consumer, found)) >= len(expected), 200)
    consumer.close()
    assert found == expected
    # Tokens are renewed before they expire.
    given = TokenServer.given
    wait_until(lambda: TokenServer.given > given, 5 * LIFE_S)
    assert flows.poll() is None and models.poll() is None
    capsys.readouterr()
    alice = bus.arguments(bus.account("alice"))
    assert invoke(["tail", "predictions.flow", "--no-follow", "--json", *alice]) == 0
    assert {json.loads(line)["prediction_id"] for line in capsys.readouterr().out.splitlines()} == expected
    for worker in (flows, models):
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(60) for worker in (flows, models)] == [0, 0]


Settings = Callable[[SecureBus], dict[str, Any]]
REFUSED: dict[str, tuple[list[str], Settings, str]] = {
    "a subscriber reads packets": (
        ["tail", "packets", "--no-follow"],
        lambda bus: bus.account("alice"),
        "no ACL of the bus lets account alice see packets",
    ),
    "a probe reads predictions": (
        ["tail", "predictions.flow", "--no-follow"],
        lambda bus: bus.account("gateway"),
        "no ACL of the bus lets account gateway see predictions.flow",
    ),
    "a subscriber sends packets": (
        ["replay", "{capture}"],
        lambda bus: bus.account("alice"),
        "no ACL of the bus lets account alice see packets",
    ),
    "a cascade without its group, before it waits for a model": (
        ["cascade", "serve"],
        lambda bus: bus.account("bytes-1"),
        "no ACL of the bus lets account bytes-1 use the group flowgauge-cascade.flows",
    ),
    "a wrong password": (
        ["tail", "predictions.flow"],
        lambda bus: bus.account("alice", "wrong"),
        "the broker refuses account alice (SCRAM-SHA-256): Authentication failed",
    ),
    "a wrong secret": (
        ["models"],
        lambda bus: bus.client_credentials("other"),
        "/token: HTTP 401, no token for client models-1: invalid_client",
    ),
    "an expired token": (
        ["streams"],
        lambda bus: bus.token(oauth_token_command=["echo", unsigned_token("flows-1", -60)]),
        "bus.oauth_token_command (echo): the token for flows-1 expired",
    ),
    "a token that the broker does not take": (
        ["replay", "{capture}"],
        lambda bus: bus.token(oauth_token_command=["echo", "no-token-at-all"]),
        "the broker refuses the token (bus.oauth_…)",
    ),
    "no certificate": (
        ["topics"],
        lambda bus: {
            k: v for k, v in bus.certificate("operator").items() if k not in ("tls_certificate", "tls_key")
        },
        "the broker refuses clients without a certificate (bus.tls_certificate): bad certificate",
    ),
    "a certificate of another authority": (
        ["topics"],
        lambda bus: {**bus.certificate("operator"), **stranger(bus)},
        "stranger.pem (bus.tls_certificate): ",
    ),
    "a broker of another authority": (
        ["replay", "{capture}"],
        lambda bus: {**bus.certificate("replayer"), "tls_ca": str(bus.folder / "other" / "ca.pem")},
        "the broker's certificate is not from an authority in bus.tls_ca",
    ),
    "no TLS": (
        ["replay", "{capture}"],
        lambda bus: {"bootstrap": bus.broker.bootstrap, "connect_timeout_s": 2},
        "the broker hangs up, as one that wants TLS does (bus.security_protocol)",
    ),
}


def stranger(bus: SecureBus) -> dict[str, str]:
    from infra.broker.certificates import Authority

    certificate, key = Authority(bus.folder / "other").issue("stranger")
    return {"tls_certificate": str(certificate), "tls_key": str(key)}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_in_one_line(
    case: str, bus: SecureBus, demo_capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(bus)
    command, settings, expected = REFUSED[case]
    words = [word.format(capture=demo_capture) for word in command]
    assert outcome.run(lambda: invoke([*words, *bus.arguments(settings(bus))])) == 4
    lines = capsys.readouterr().err.splitlines()
    assert expected in lines[-1]
    assert sum("error: " in line for line in lines) == 1


def test_a_probe_writes_packets_and_its_telemetry_and_nothing_else(bus: SecureBus) -> None:
    producer = BusProducer(BusSettings(**bus.account("gateway")))
    producer.connect()
    for topic in ("packets", "telemetry.cost"):
        producer.produce(topic, b"x", 0)
    assert producer.flush(30) == 0
    producer.check()
    producer.produce("labels", b"x", 0)
    producer.flush(30)
    with pytest.raises(
        BusError, match=r"topic labels \[0\]: no ACL of the bus lets account gateway write to it"
    ):
        producer.check()


def test_a_flows_worker_without_its_group_stops_with_one_line(bus: SecureBus) -> None:
    # eve may use the flows' topics, and the group of that role; another one she may see at most.
    seen = AclBinding(
        ResourceType.GROUP,
        "seen",
        ResourcePatternType.LITERAL,
        "User:eve",
        "*",
        AclOperation.DESCRIBE,
        AclPermissionType.ALLOW,
    )
    operator = AdminClient(client_properties(BusSettings(**bus.certificate("operator"))))
    operator.create_acls([seen])[seen].result(20)
    started = {
        group: bus.start("streams", bus.account("eve"), group=group) for group in ("someone-else", "seen")
    }
    for group, (worker, err) in started.items():
        assert worker.wait(90) == 4
        lines = err.read_text(encoding="utf-8").splitlines()
        assert f"no ACL of the bus lets account eve use the group {group}" in lines[-1]
        assert not any("Traceback" in line for line in lines)
