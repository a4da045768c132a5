"""Mail going out: SMTP with and without STARTTLS, aiosmtpd as server, Python's smtplib as client."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from typing import Any

from infra.lab.app import TCP, App, Endpoint
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 25, TCP), Endpoint(0, 587, TCP), Endpoint(1, 2525, TCP))


class _Sink:
    """Takes every message and keeps none."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK"


async def serve(host: Host) -> None:
    """Listen at every endpoint."""
    from aiosmtpd.smtp import SMTP

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*await host.certificate())
    loop = asyncio.get_running_loop()
    for endpoint in ENDPOINTS:
        for address in host.both(endpoint.server):
            await loop.create_server(
                lambda: SMTP(_Sink(), hostname="server.lab", tls_context=context), address, endpoint.port
            )


async def visit(host: Host) -> None:
    """Send one to three mails of a few hundred octets to 25 kB in one session."""
    endpoint = host.random.choice(ENDPOINTS)
    mails = []
    for _ in range(host.random.choice((1, 1, 2, 3))):
        mail = EmailMessage()
        mail["From"], mail["To"] = (
            f"user{host.index}@client.lab",
            f"user{host.random.randrange(40)}@server.lab",
        )
        mail["Subject"] = f"Report {host.random.randrange(1000)}"
        mail.set_content("Hello,\n\nplease find the figures below.\n" * host.random.randint(1, 30))
        if host.random.random() < 0.25:
            data = host.random.randbytes(host.random.randint(500, 18_000))
            mail.add_attachment(data, maintype="application", subtype="octet-stream", filename="data.bin")
        mails.append(mail)
    address = host.address(endpoint.server, host.version())
    await asyncio.to_thread(_send, address, endpoint.port, mails, host.random.random() < 0.6, host.index)


def _send(address: str, port: int, mails: list[EmailMessage], tls: bool, index: int) -> None:
    with smtplib.SMTP(address, port, local_hostname=f"client{index}.lab", timeout=15) as session:
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            session.starttls(context=context)
        for mail in mails:
            session.send_message(mail)


APP = App(
    "smtp", "mail", ENDPOINTS, serve, visit, pause_s=6,
    programs=("openssl",), modules=("aiosmtpd",), debian=("openssl",), pypi=("aiosmtpd",),
)  # fmt: skip
