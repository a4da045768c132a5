"""A write to a connection that uvloop has closed already is an error of the connection.

asyncio's own transports swallow such a write, uvloop's raise RuntimeError, and aiokafka (0.14) expects OSError. It
ended the task that follows the cluster's metadata, in silence: the coordinator of the group was never found again
after a restart of the broker, and the worker stood still without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError


def _told(send: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``send`` so that it raises KafkaConnectionError where the transport is closed."""

    @wraps(send)
    def sending(connection: Any, *args: Any, **options: Any) -> Any:
        try:
            return send(connection, *args, **options)
        except KafkaError:  # which are RuntimeErrors, and told as they should be
            raise
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(
                f"Connection at {connection.host}:{connection.port} broken: {error}"
            ) from error

    return sending


def mend() -> None:
    """Have aiokafka's connections tell; once for a process."""
    for name in ("send", "_send_sasl_token"):
        send = getattr(AIOKafkaConnection, name)
        if not hasattr(send, "__wrapped__"):
            setattr(AIOKafkaConnection, name, _told(send))
