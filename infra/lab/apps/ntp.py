"""Time: chrony on both sides; clients ask once and set no clock."""

from __future__ import annotations

from infra.lab.app import UDP, App, Endpoint, program
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 123, UDP), Endpoint(2, 1123, UDP))


async def serve(host: Host) -> None:
    """Start one server per endpoint; it leaves this machine's clock alone."""
    room = host.room("ntp")
    for number, endpoint in enumerate(ENDPOINTS):
        addresses = [f"bindaddress {address}" for address in host.both(endpoint.server)]
        configuration = room / f"server{number}.conf"
        configuration.write_text(
            "\n".join(
                [
                    *("local stratum 3", "allow all", f"port {endpoint.port}", *addresses),
                    *("cmdport 0", f"bindcmdaddress {room}/server{number}.sock"),
                    *(f"pidfile {room}/server{number}.pid", ""),
                ]
            )
        )
        await host.start(program("chronyd"), "-x", "-d", "-u", "root", "-f", str(configuration))


async def visit(host: Host) -> None:
    """Measure the offset to one server with one to four samples."""
    endpoint = host.random.choice(ENDPOINTS)
    address = host.address(endpoint.server, host.version())
    options = host.random.choice(("iburst maxsamples 1", "iburst maxsamples 4", "xleave iburst maxsamples 2"))
    await host.run(
        program("chronyd"), "-Q", "-u", "root", "-t", "6",
        f"server {address} port {endpoint.port} {options}", "cmdport 0",
        f"pidfile {host.room('ntp')}/client{host.index}.pid",
    )  # fmt: skip


APP = App("ntp", "ntp", ENDPOINTS, serve, visit, pause_s=5, programs=("chronyd",), debian=("chrony",))
