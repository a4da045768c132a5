"""How Faust's client proves itself to the bus: the same settings as librdkafka's clients, in aiokafka's words."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials

from producers.config import BusSettings
from producers.security.clients import account, client_properties, forbidden, refusal
from producers.security.tls import tls_context
from producers.security.tokens import Token, Tokens
from schemas.errors import BusError


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
    """Raise BusError where ACLs keep this process out of its group (full name): Faust would wait for ever."""
    if bus.security_protocol == "PLAINTEXT":
        return
    asked = AdminClient(client_properties(bus)).describe_consumer_groups(
        [group], request_timeout=bus.connect_timeout_s
    )
    try:
        asked[group].result(bus.connect_timeout_s + 1)
    except (KafkaException, TimeoutError) as error:
        if forbidden(error):
            raise BusError(
                f"bus {bus.bootstrap}: no ACL of the bus lets {account(bus)} use the group {group}"
            ) from error
        # Anything else may pass, and Faust tells it.


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
