"""The settings of the bus as librdkafka takes them, and what its clients say when a broker refuses them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from producers.config import BusSettings
from producers.security.tls import tls_context
from producers.security.tokens import Tokens
from schemas.errors import FlowgaugeError

log = logging.getLogger("flowgauge")

_TELL_AGAIN_S = 60.0
_ALERT = re.compile(r"tls alert|ssl alert", re.IGNORECASE)
"""A broker that does not like a certificate says so once it has hung up, as an error of transport."""
_REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})
_FORBIDDEN = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
})  # fmt: skip


class Trouble:
    """What a client of the bus was last told: its ``error_cb``, and the words of our errors.

    Errors that a broker means (a wrong password, an unknown certificate) are told apart from those that pass.
    """

    def __init__(self, bus: BusSettings) -> None:
        self._bus = bus
        self.last = ""
        """Why a broker could not be reached, without librdkafka's timings."""
        self.refused = ""
        """Why a broker did not let this client in; empty while none has refused."""
        self.token = ""
        """Why there is no token."""
        self.tells = False
        """Whether a refusal is told in the log, at most once a minute; else whoever called tells it."""
        self._next_line_s = 0.0

    def __call__(self, error: KafkaError) -> None:
        """Take in an error that concerns the whole client."""
        if error.code() in _REFUSED or _ALERT.search(error.str()):
            self.refuse(self.token or refusal(self._bus, error.str()))
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            # "host:port/bootstrap: Connect to … failed: Connection refused (after 0ms in state CONNECT…)"
            self.last = error.str().split(" (after ")[0]

    def refuse(self, why: str) -> None:
        """Note why this client is not let in."""
        now_s = time.monotonic()
        if self.tells and now_s >= self._next_line_s:
            self._next_line_s = now_s + _TELL_AGAIN_S
            log.warning("bus %s: %s", self._bus.bootstrap, why)
        self.refused = self.last = why

    def reason(self, error: KafkaException) -> str:
        """Return why a call failed, as one line: what was refused counts for more than that nothing answered."""
        if self.refused or self.last:
            return self.refused or self.last
        if not self._bus.tls and error.args and error.args[0].code() == KafkaError._TRANSPORT:
            return "the broker hangs up, as one that wants TLS does (bus.security_protocol)"
        return said(error)


def client_properties(
    bus: BusSettings, more: Mapping[str, Any] | None = None, trouble: Trouble | None = None
) -> dict[str, Any]:
    """Return librdkafka properties of a client; those the user gives in ``client`` come last and win.

    Args:
        bus: the bus, and how it is spoken to.
        more: properties of this client.
        trouble: hears of errors.

    Raises:
        SettingsError: a file of a key, certificate or password cannot be used.
    """
    trouble = trouble or Trouble(bus)
    return {
        "bootstrap.servers": bus.bootstrap,
        "log_level": 0,
        "error_cb": trouble,
        **_tls(bus),
        **_sasl(bus, trouble),
        **(more or {}),
        **bus.client,
    }


def _tls(bus: BusSettings) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if bus.security_protocol != "PLAINTEXT":
        out["security.protocol"] = bus.security_protocol
    if not bus.tls:
        return out
    tls_context(bus)  # tells what is wrong with the files better than librdkafka does
    if bus.tls_ca:
        out["ssl.ca.location"] = bus.tls_ca
    if bus.tls_certificate:
        out["ssl.certificate.location"] = bus.tls_certificate
        out["ssl.key.location"] = bus.tls_key
        if bus.has("tls_key_password"):
            out["ssl.key.password"] = bus.reveal("tls_key_password")
    out["ssl.endpoint.identification.algorithm"] = "https" if bus.tls_verify_hostname else "none"
    return out


def _sasl(bus: BusSettings, trouble: Trouble) -> dict[str, Any]:
    if not bus.sasl:
        return {}
    out: dict[str, Any] = {"sasl.mechanism": bus.sasl_mechanism}
    if bus.sasl_mechanism != "OAUTHBEARER":
        return {**out, "sasl.username": bus.sasl_username, "sasl.password": bus.reveal("sasl_password")}
    tokens = Tokens(bus)
    tokens.get()  # librdkafka would wait ten seconds for it, and not say why there is none

    def token(_config: str) -> tuple[str, float, str, dict[str, str]]:
        try:
            found = tokens.get()
        except FlowgaugeError as error:
            # What is raised here comes back as an error without words.
            trouble.token = str(error)
            raise
        trouble.token = ""
        return found.value, found.expires_s, found.principal, {}

    return {**out, "oauth_cb": token}


def said(error: BaseException) -> str:
    """Return what librdkafka says was wrong, as one line without its codes."""
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else " ".join(str(first).split())


def forbidden(error: BaseException | KafkaError) -> bool:
    """Return whether the bus's ACLs refuse something: to try again is no use."""
    found = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return isinstance(found, KafkaError) and found.code() in _FORBIDDEN


def only_of_group(error: KafkaError) -> bool:
    """Return whether an error says no more than that a group may not be used.

    librdkafka wants a group named and looks for its coordinator; a reader that joins none need not mind.
    """
    return bool(error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED)


def account(bus: BusSettings) -> str:
    """Return who this process is to the bus, for errors about what it may not do."""
    if bus.sasl and bus.sasl_mechanism != "OAUTHBEARER":
        return f"account {bus.sasl_username}"
    if bus.sasl:
        return f"client {bus.oauth_client_id}" if bus.oauth_client_id else "the account of the token"
    return f"certificate {bus.tls_certificate}" if bus.tls_certificate else "a client without an account"


def refusal(bus: BusSettings, text: str) -> str:
    """Return in our words, with the setting that it is about, what librdkafka or aiokafka says of a refusal."""
    low = text.lower()
    if "certificate verify failed" in low or "certificate_verify_failed" in low:
        if "hostname mismatch" in low or "ip address mismatch" in low or "not valid for" in low:
            return "the broker's certificate is for another name (bus.tls_verify_hostname)"
        if "expired" in low:
            return "the broker's certificate has expired"
        trusted = bus.tls_ca or "what the system trusts"
        return f"the broker's certificate is not from an authority in bus.tls_ca ({trusted})"
    if _ALERT.search(low):
        shown = (
            f"the certificate {bus.tls_certificate}"
            if bus.tls_certificate
            else "clients without a certificate"
        )
        why = low.partition("alert ")[2].partition(":")[0] or _short(text)
        return f"the broker refuses {shown} (bus.tls_certificate): {why}"
    if bus.sasl_mechanism == "OAUTHBEARER" and "invalid_token" in low:
        return f"the broker refuses the token (bus.oauth_…): {_short(text)}"
    if "invalid credentials" in low or "authentication failed" in low or "authentication error" in low:
        kind = bus.sasl_mechanism or "SASL"
        return f"the broker refuses {account(bus)} ({kind}): {_short(text)}"
    return _short(text)


def _short(text: str) -> str:
    """Return the part of librdkafka's line that says why."""
    plain = text.split(" (after ")[0]
    for lead in (
        "SASL authentication error: ",
        "SSL handshake failed: ",
        "Failed to acquire SASL OAUTHBEARER token: ",
    ):
        plain = plain.partition(lead)[2] or plain
    return " ".join(plain.split())[:300]
