"""aiokafka takes a transport that uvloop has closed for a lost connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from streams.lost_connections import mend


async def closed_under_its_owner() -> AIOKafkaConnection:
    """Return a connection whose transport is closed, and that has not been told."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection: Any = AIOKafkaConnection("127.0.0.1", port)
    connection._reader, connection._writer = await asyncio.open_connection("127.0.0.1", port)
    connection._read_task = asyncio.ensure_future(asyncio.sleep(60))
    connection._versions = {MetadataRequest.API_KEY: (0, 1)}
    connection._writer.transport.abort()
    await asyncio.sleep(0.05)
    server.close()
    return connection


@pytest.mark.parametrize("how", ["request", "token"])
def test_a_write_to_a_closed_transport_is_a_lost_connection(how: str) -> None:
    async def run() -> None:
        connection: Any = await closed_under_its_owner()
        versions, connection._versions = connection._versions, {}
        with pytest.raises(IncompatibleBrokerVersion):  # a RuntimeError too
            connection.send(MetadataRequest([]))
        connection._versions = versions
        with pytest.raises(RuntimeError, match="handler is closed"):
            connection._writer.write(b"x")  # what aiokafka would let through
        with pytest.raises(KafkaConnectionError, match="broken: unable to perform operation"):
            connection.send(MetadataRequest([])) if how == "request" else connection._send_sasl_token(b"x")
        assert not connection.connected()
        with pytest.raises(KafkaConnectionError, match="No connection"):
            connection.send(MetadataRequest([]))

    mend()
    mend()  # as each worker of a process does
    uvloop.run(run())
