"""How Faust's client proves itself to the bus: the same settings as librdkafka's clients, in aiokafka's words."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation, AdminClient
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials

from producers.config import BusSettings, topic_name
from producers.security.clients import account, client_properties, forbidden, refusal
from producers.security.tls import tls_context
from producers.security.tokens import Token, Tokens
from schemas.errors import BusError

_AGAIN_S = 0.1
_NOT_YET = frozenset({
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
})  # fmt: skip


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Gives aiokafka a token for each new connection, without holding up the event loop while one is fetched."""

    def __init__(self, bus: BusSettings) -> None:
        self._tokens = Tokens(bus)

    async def token(self) -> str:
        """Return the token."""
        found: Token = await asyncio.get_running_loop().run_in_executor(None, self._tokens.get)
        return found.value


def faust_credentials(bus: BusSettings) -> Any:
    """Return what Faust's ``broker_credentials`` takes; None where the bus asks for nothing.

    Raises:
        SettingsError: a file of a key, certificate or password cannot be used.
    """
    context: ssl.SSLContext | None = tls_context(bus) if bus.tls else None
    if bus.sasl_mechanism == "OAUTHBEARER":
        return OAuthCredentials(oauth_cb=TokenProvider(bus), ssl_context=context)
    if bus.sasl:
        return SASLCredentials(
            mechanism=bus.sasl_mechanism,
            username=bus.sasl_username,
            password=bus.reveal("sasl_password"),
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)


def check_group(bus: BusSettings, group: str) -> None:
    """Raise BusError where ACLs keep this process out of its group (without the prefix): Faust would wait for ever."""
    if bus.security_protocol == "PLAINTEXT":
        return
    group = topic_name(bus, group)
    # A client that nobody holds is gone before it has answered.
    admin = AdminClient(client_properties(bus))
    until_s = time.monotonic() + bus.connect_timeout_s
    while True:
        try:
            allowed = _may_read(admin, group, bus.connect_timeout_s)
            break
        except (KafkaException, TimeoutError) as error:
            if not _passes(error) or time.monotonic() >= until_s:
                return  # Faust tells it
        time.sleep(_AGAIN_S)
    if not allowed:
        raise BusError(f"bus {bus.bootstrap}: no ACL of the bus lets {account(bus)} use the group {group}")


def _may_read(admin: AdminClient, group: str, timeout_s: float) -> bool:
    """Return whether ACLs let this client use the group; to see it is not enough. A broker may not tell that."""
    asked = admin.describe_consumer_groups(
        [group], include_authorized_operations=True, request_timeout=timeout_s
    )
    try:
        operations = asked[group].result(timeout_s + 1).authorized_operations
    except KafkaException as error:
        if forbidden(error):
            return False
        raise
    return not operations or AclOperation.READ in operations


def _passes(error: BaseException) -> bool:
    """Return whether a broker has only just come to coordinate the group."""
    return isinstance(error, KafkaException) and error.args[0].code() in _NOT_YET


def what_is_refused(error: BaseException, bus: BusSettings) -> str:
    """Return in our words what the bus refused Faust's client; empty for other errors."""
    about = ", ".join(str(part) for part in error.args) or "?"
    if isinstance(error, GroupAuthorizationFailedError):
        return f"no ACL of the bus lets {account(bus)} use the group {about}"
    if isinstance(error, TopicAuthorizationFailedError):
        return f"no ACL of the bus lets {account(bus)} read {about}"
    if isinstance(error, (AuthenticationFailedError, ssl.SSLError)):
        return refusal(bus, str(error))
    return ""
