"""Mail coming in: Dovecot as IMAP server, Python's imaplib as client; plain, STARTTLS or TLS at once."""

from __future__ import annotations

import asyncio
import imaplib
import random
import ssl

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host

TLS = (993,)
_PLACES = {143: (0, 1), 993: (2,)}
ENDPOINTS = tuple(Endpoint(server, port, TCP) for port, servers in _PLACES.items() for server in servers)


async def serve(host: Host) -> None:
    """Start Dovecot; every user name is let in and has a mailbox of its own."""
    certificate, key = await host.certificate()
    room = host.room("imap")
    room.chmod(0o777)
    listeners = "".join(
        f"inet_listener {name} {{\n port = {port}\n ssl = {'yes' if port in TLS else 'no'}\n"
        f" address = {' '.join(a for server in _PLACES[port] for a in host.both(server))}\n}}\n"
        for name, port in (("imap", 143), ("imaps", 993))
    )
    configuration = room / "dovecot.conf"
    configuration.write_text(
        f"""
base_dir = {room}/run
state_dir = {room}/state
log_path = {room}/dovecot.log
protocols = imap
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
mail_location = maildir:{room}/mail/%u
first_valid_uid = 1
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={room}/mail/%u
}}
default_internal_user = nobody
default_login_user = nobody
default_internal_group = nogroup
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  {listeners}
}}
"""
    )
    (room / "mail").mkdir()
    (room / "mail").chmod(0o777)
    await host.start(program("dovecot"), "-F", "-c", str(configuration))


async def visit(host: Host) -> None:
    """Log in, look, fetch; sometimes leave a mail."""
    port = host.random.choice((143, 143, 993))
    address = host.address(host.random.choice(_PLACES[port]), host.version())
    dice = random.Random(host.random.random())  # noqa: S311 - a thread's own dice, for behaviour
    await asyncio.to_thread(_session, address, port, f"user{host.index}", dice)


def _session(address: str, port: int, user: str, dice: random.Random) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session: imaplib.IMAP4
    if port in TLS:
        session = imaplib.IMAP4_SSL(address, port, ssl_context=context, timeout=15)
    else:
        session = imaplib.IMAP4(address, port, timeout=15)
        if dice.random() < 0.5:
            session.starttls(context)
    try:
        session.login(user, "secret")
        if dice.random() < 0.4:
            text = (
                b"From: a@client.lab\r\nSubject: note\r\n\r\n"
                + b"Some text in a mail.\r\n" * dice.randint(1, 300)
            )
            session.append("INBOX", "", imaplib.Time2Internaldate(1.7e9), text)
        count = int(session.select("INBOX")[1][0] or b"0")
        for _ in range(min(count, dice.randint(0, 4))):
            number = str(dice.randint(1, count))
            session.fetch(number, dice.choice(("(FLAGS)", "(BODY[HEADER])", "(RFC822)")))
        if dice.random() < 0.3:
            session.search(None, "SUBJECT", "note")
            session.noop()
    finally:
        session.logout()


APP = App(
    "imap", "mail", ENDPOINTS, serve, visit, pause_s=6,
    programs=("dovecot", "openssl"), debian=("dovecot-imapd", "openssl"),
)  # fmt: skip
