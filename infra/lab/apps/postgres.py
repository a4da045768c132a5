"""A relational database: PostgreSQL, asked by psql, with and without TLS."""

from __future__ import annotations

import pwd
import shutil

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host

PORT = 5432
ENDPOINTS = (Endpoint(0, PORT, TCP), Endpoint(2, PORT, TCP), Endpoint(3, PORT, TCP))

_SCHEMA = """
create table items(id serial primary key, name text, price numeric, at timestamptz default now());
insert into items(name, price) select 'item ' || n, n * 1.5 from generate_series(1, 2000) n;
create table visits(who int, at timestamptz default now());
"""
_QUERIES = (
    "select count(*) from items;",
    "select * from items where id = {0};",
    "select id, name from items order by price desc limit {1};",
    "insert into visits(who) values ({0});",
    "update items set price = price + 1 where id = {0};",
    "begin; insert into visits(who) values ({0}); select max(at) from visits; commit;",
    "select repeat('x', {1}) from generate_series(1, 10);",
)


async def serve(host: Host) -> None:
    """Make a cluster and start it, as a user without rights, for the server refuses root."""
    room = host.room("postgres")
    user = _plain_user()
    shutil.chown(room, user)
    data = str(room / "data")
    await host.run(
        program("initdb"), "-D", data, "-U", "lab", "-A", "trust", "-N", "--locale=C", "-E", "UTF8",
        user=user, timeout_s=60,
    )  # fmt: skip
    for name, source in zip(("cert.pem", "key.pem"), await host.certificate(), strict=True):
        shutil.copy(source, room / name)
        shutil.chown(room / name, user)
        (room / name).chmod(0o600)
    with (room / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all lab all trust\n")
    addresses = ",".join(address for endpoint in ENDPOINTS for address in host.both(endpoint.server))
    settings = {
        "listen_addresses": addresses,
        "port": str(PORT),
        "unix_socket_directories": str(room),
        "fsync": "off",
        "shared_buffers": "16MB",
        "ssl": "on",
        "ssl_cert_file": str(room / "cert.pem"),
        "ssl_key_file": str(room / "key.pem"),
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    await host.start(program("postgres"), "-D", data, *options, user=user)
    await host.listening(TCP, PORT)
    await host.run(program("psql"), "-q", "-h", str(room), "-U", "lab", "postgres", "-c", _SCHEMA)


def _plain_user() -> str:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


async def visit(host: Host) -> None:
    """One session of one to eight statements, in one go or with pauses."""
    endpoint = host.random.choice(ENDPOINTS)
    address = host.address(endpoint.server, host.version())
    pause_s = host.random.choice((0.01, 0.2, 0.8))
    statements = [
        (
            pause_s,
            host.random.choice(_QUERIES)
            .format(host.random.randint(1, 2000), host.random.randint(5, 120))
            .encode(),
        )
        for _ in range(host.random.randint(1, 8))
    ]
    await host.run(
        program("psql"), "-X", "-q", "-t", "-h", address, "-p", str(PORT), "-U", "lab", "postgres",
        typing=[(pause, text + b"\n") for pause, text in statements],
        env={"PGSSLMODE": host.random.choice(("disable", "require"))},
    )  # fmt: skip


APP = App(
    "postgres", "database", ENDPOINTS, serve, visit, pause_s=5,
    programs=("initdb", "postgres", "psql", "openssl"), debian=("postgresql", "openssl"),
)  # fmt: skip
