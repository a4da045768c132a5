"""HTTP/3 on aioquic: a server that answers ``/SIZE`` with that many octets, and a client's connection."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import QuicEvent


class Server(QuicConnectionProtocol):  # type: ignore[misc,unused-ignore]
    """Answers GET and POST; the path says how many octets to send."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._paths: dict[int, bytes] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Answer each request when all of it is there."""
        for part in self._http.handle_event(event):
            if isinstance(part, HeadersReceived):
                self._paths[part.stream_id] = dict(part.headers)[b":path"]
            if isinstance(part, HeadersReceived | DataReceived) and part.stream_ended:
                self._answer(part.stream_id, int(self._paths.pop(part.stream_id)[1:]))

    def _answer(self, stream: int, size: int) -> None:
        headers = [(b":status", b"200"), (b"server", b"lab"), (b"content-length", str(size).encode())]
        self._http.send_headers(stream, headers)
        self._http.send_data(stream, bytes(size), end_stream=True)
        self.transmit()


class Client(QuicConnectionProtocol):  # type: ignore[misc,unused-ignore]
    """Sends requests and counts the octets that come back."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._octets: dict[int, int] = defaultdict(int)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Count what arrives and finish the requests that are complete."""
        for part in self._http.handle_event(event):
            if isinstance(part, DataReceived):
                self._octets[part.stream_id] += len(part.data)
            if isinstance(part, HeadersReceived | DataReceived) and part.stream_ended:
                waiting = self._waiting.pop(part.stream_id)
                if not waiting.done():
                    waiting.set_result(self._octets.pop(part.stream_id, 0))

    async def fetch(self, authority: str, size: int, body: bytes = b"", timeout_s: float = 15) -> int:
        """Request ``size`` octets; returns how many came."""
        stream = self._quic.get_next_available_stream_id()
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        headers = [
            (b":method", b"POST" if body else b"GET"), (b":scheme", b"https"),
            (b":authority", authority.encode()), (b":path", f"/{size}".encode()), (b"user-agent", b"lab"),
        ]  # fmt: skip
        waiting = self._waiting[stream]
        self._http.send_headers(stream, headers, end_stream=not body)
        if body:
            self._http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(waiting, timeout_s)
