"""Secure shell: OpenSSH on both sides; typed sessions, single commands, files copied both ways."""

from __future__ import annotations

from pathlib import Path

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 22, TCP), Endpoint(1, 2222, TCP), Endpoint(3, 443, TCP))

_COMMANDS = (
    "date",
    "seq 1 40",
    "printf '%s' lab",
    "head -c 4000 /dev/urandom | base64",
    "sleep 0.4; seq 1 9",
    "true",
)
_TYPED = (
    "date\n",
    "echo hello there\n",
    "seq 1 20\n",
    "for i in 1 2 3; do echo $i; sleep 0.2; done\n",
    "printf lab\n",
)


async def serve(host: Host) -> None:
    """Make keys and start one sshd at all endpoints."""
    room = host.room("ssh")
    for name in ("host_key", "user_key"):
        await host.run(
            program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(room / name)
        )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on this one
    listens = []
    for endpoint in ENDPOINTS:
        version4, version6 = host.both(endpoint.server)
        listens += [
            f"ListenAddress {version4}:{endpoint.port}",
            f"ListenAddress [{version6}]:{endpoint.port}",
        ]
    settings = (
        *listens, f"HostKey {room}/host_key", f"AuthorizedKeysFile {room}/user_key.pub",
        f"PidFile {room}/sshd.pid",
        "PermitRootLogin yes", "StrictModes no", "UsePAM no", "UseDNS no", "PrintMotd no", "PrintLastLog no",
        "MaxStartups 50:30:100", "Subsystem sftp internal-sftp",
    )  # fmt: skip
    (room / "sshd_config").write_text("\n".join(settings) + "\n")
    for size in (2_000, 15_000, 30_000):
        (room / f"file{size}").write_bytes(host.random.randbytes(size))
    await host.start(program("sshd"), "-D", "-e", "-f", str(room / "sshd_config"))


async def visit(host: Host) -> None:
    """One session of one kind."""
    room = host.room("ssh")
    endpoint = host.random.choice(ENDPOINTS)
    address, port = host.address(endpoint.server, host.version()), str(endpoint.port)
    options = [
        "-F", "/dev/null", "-i", str(room / "user_key"), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
    ]  # fmt: skip
    kind = host.random.random()
    if kind < 0.4:
        keys = [key for line in host.random.choices(_TYPED, k=host.random.randint(1, 3)) for key in line]
        typing = [(1.0 if key == "\n" else host.random.uniform(0.04, 0.16), key.encode()) for key in keys]
        shell = "env -i PS1='lab$ ' PATH=/usr/bin:/bin TERM=dumb sh"
        command = [program("ssh"), "-tt", *options, "-p", port, f"root@{address}", shell]
        await host.run(*command, typing=[(0.5, b""), *typing, (0.3, b"exit 0\n"), (0.5, b"")])
    elif kind < 0.7:
        await host.run(program("ssh"), *options, "-p", port, f"root@{address}", host.random.choice(_COMMANDS))
    else:
        file = room / host.random.choice(("file2000", "file15000", "file30000"))
        place = f"root@[{address}]:"
        both = (
            [str(file), f"{place}/dev/null"]
            if host.random.random() < 0.5
            else [f"{place}{file}", "/dev/null"]
        )
        legacy = (
            ["-O"] if both[1].endswith("/dev/null") else []
        )  # SFTP cannot truncate a device, plain SCP can
        await host.run(program("scp"), "-q", *legacy, *options, "-P", port, *both)


APP = App(
    "ssh", "ssh", ENDPOINTS, serve, visit, pause_s=3,
    programs=("sshd", "ssh", "scp", "ssh-keygen"), debian=("openssh-server", "openssh-client"),
)  # fmt: skip
