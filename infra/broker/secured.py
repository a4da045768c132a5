"""A Kafka broker that asks who is there: TLS everywhere, accounts of every kind, and ACLs.

Two listeners: one where clients show a certificate (mutual TLS), the broker's own connections among them, and one
where they name an account (SCRAM, PLAIN, or a token). A client is known by its account's or certificate's name;
``operator`` may do everything, all others what ACLs allow.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from infra.broker.certificates import Authority
from schemas.errors import BusError

BROKER, OPERATOR = "broker", "operator"
HOSTS = ("127.0.0.1", "localhost")
_SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_PAIR = (("certificate", "pem"), ("key", "key"))
_ITERATIONS = 4096
_TIMEOUT_S = 20.0
_MODULES = "org.apache.kafka.common.security"

# Tokens are taken unsigned (JWS with the algorithm "none", Kafka's default for a listener without a key service):
# this broker is for tests and for trying out, and is on 127.0.0.1.
_PROPERTIES = """\
listeners=SSL://127.0.0.1:{port},ACCOUNTS://127.0.0.1:{accounts_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=SSL://127.0.0.1:{port},ACCOUNTS://127.0.0.1:{accounts_port}
inter.broker.listener.name=SSL
listener.security.protocol.map=SSL:SSL,ACCOUNTS:SASL_SSL,CONTROLLER:SSL
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
ssl.client.auth=required
listener.name.accounts.ssl.client.auth=none
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT
listener.name.accounts.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER
listener.name.accounts.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.accounts.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.accounts.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required {plain};
listener.name.accounts.oauthbearer.sasl.jaas.config={modules}.oauthbearer.OAuthBearerLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{broker};User:{operator}
"""


class Secured:
    """What makes a broker secured; its certificates lie in a folder that outlives it.

    Args:
        folder: ``ca.pem``, ``broker.*`` and ``operator.*`` are made here unless they are there.
        plain: password by name of the accounts of the mechanism PLAIN.
        port: of the listener for accounts, 0 for a free one.
    """

    def __init__(self, folder: Path, plain: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.folder = folder.resolve()
        self.authority = Authority(self.folder)
        self.port = port
        """Port of the listener for accounts, once the broker has started."""
        self._plain = dict(plain or {})
        if not (self.folder / f"{OPERATOR}.pem").exists():
            self.authority.issue(OPERATOR)

    @property
    def accounts(self) -> str:
        """Address of the listener for accounts, ``host:port``."""
        return f"127.0.0.1:{self.port}"

    def properties(self, port: int, accounts_port: int, controller_port: int) -> str:
        """Return the broker's settings about security, and write its key and certificate."""
        self.port = accounts_port
        certificate, key = self.authority.issue(BROKER, HOSTS)
        store = self.folder / "broker.keystore.pem"
        store.touch(mode=0o600)
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        return _PROPERTIES.format(
            port=port,
            accounts_port=accounts_port,
            controller_port=controller_port,
            folder=self.folder,
            modules=_MODULES,
            plain=" ".join(f'user_{name}="{password}"' for name, password in self._plain.items()),
            broker=BROKER,
            operator=OPERATOR,
        )

    def operator_client(self) -> dict[str, Any]:
        """Return librdkafka properties of a client that may do everything."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.authority.ca),
            "ssl.certificate.location": str(self.folder / f"{OPERATOR}.pem"),
            "ssl.key.location": str(self.folder / f"{OPERATOR}.key"),
        }

    def settings(self, bootstrap: str, account: str = "") -> str:
        """Return a settings file of Flowgauge for an account (of SCRAM), or for the operator."""
        lines = ["[bus]", f'tls_ca = "{self.authority.ca}"']
        if account:
            lines += [f'bootstrap = "{self.accounts}"', 'security_protocol = "SASL_SSL"']
            lines += ['sasl_mechanism = "SCRAM-SHA-512"', f'sasl_username = "{account}"']
            lines += [f'sasl_password_file = "{self.folder / account}.password"']
        else:
            lines += [f'bootstrap = "{bootstrap}"', 'security_protocol = "SSL"']
            lines += [f'tls_{what} = "{self.folder / OPERATOR}.{end}"' for what, end in _PAIR]
        return "\n".join(lines) + "\n"

    def write_settings(self, bootstrap: str, accounts: Sequence[str], partitions: int) -> None:
        """Make accounts with passwords of their own, and write ``NAME.toml`` for each and for the operator.

        An account that has a password file already keeps its password.
        """
        for name in accounts:
            file = self.folder / f"{name}.password"
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(f"{secrets.token_urlsafe(18)}\n", encoding="utf-8")
            self.add_account(bootstrap, name, file.read_text(encoding="utf-8").strip())
        for name in (OPERATOR, *accounts):
            text = self.settings(bootstrap, "" if name == OPERATOR else name)
            (self.folder / f"{name}.toml").write_text(f"{text}partitions = {partitions}\n", encoding="utf-8")

    def add_account(self, bootstrap: str, name: str, password: str, mechanism: str = "SCRAM-SHA-512") -> None:
        """Make an account for SCRAM, or change its password.

        Raises:
            BusError: the broker refuses.
        """
        change = UserScramCredentialUpsertion(
            name, ScramCredentialInfo(_SCRAM[mechanism], _ITERATIONS), password.encode()
        )
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **self.operator_client()})
        try:
            admin.alter_user_scram_credentials([change], request_timeout=_TIMEOUT_S)[name].result(_TIMEOUT_S)
        except (KafkaException, TimeoutError) as error:
            raise BusError(f"{bootstrap}: cannot make the account {name}: {error}") from error
