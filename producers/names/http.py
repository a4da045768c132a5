"""The host in an HTTP/1 request (RFC 9112), from as much of it as has come."""

from __future__ import annotations

from producers.names.text import Verdict, host_name

MAX_REQUEST = 8192
"""Octets of a request in which its host is looked for."""


def name_in_request(data: bytes) -> str | Verdict:
    """Return the host of the first request in ``data``: of its Host header, without the port."""
    head, end, _ = data[:MAX_REQUEST].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if len(lines) > 1 and b" HTTP/1." not in lines[0]:
        return Verdict.NOTHING
    # Without the empty line the last one may be cut short.
    for line in lines[1:] if end else lines[1:-1]:
        field, colon, value = line.partition(b":")
        if colon and field.lower() == b"host":
            return host_name(value.strip(b" \t").partition(b":")[0]) or Verdict.NOTHING
    return Verdict.NOTHING if end or len(data) >= MAX_REQUEST else Verdict.MORE
