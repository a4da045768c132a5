"""Name look-ups: dnsmasq answers for a zone of its own, dig asks over UDP and now and then over TCP."""

from __future__ import annotations

from infra.lab.app import TCP, UDP, App, Endpoint, program
from infra.lab.host import Host

_PLACES = ((0, 53), (1, 5353), (3, 53))
ENDPOINTS = tuple(Endpoint(server, port, protocol) for server, port in _PLACES for protocol in (UDP, TCP))
NAMES = 120


async def serve(host: Host) -> None:
    """Start one dnsmasq per endpoint, with addresses, texts, mail exchangers and services."""
    lines = [
        "no-resolv",
        "no-hosts",
        "bind-interfaces",
        "local=/lab/",
        "cache-size=0",
        "user=root",
        "pid-file=",
    ]
    for number in range(NAMES):
        name = f"{host.random.choice(('www', 'mail', 'cdn', 'api', 'db'))}{number}.site{number % 9}.lab"
        lines.append(f"host-record=name{number}.lab,10.1.{number}.7,fd00:1::{number:x}")
        lines.append(f"cname={name},name{number}.lab")
        lines.append(f"mx-host=name{number}.lab,name{(number + 1) % NAMES}.lab,10")
        lines.append(f"txt-record=name{number}.lab,v=lab1 {'t' * host.random.randint(5, 180)}")
        lines.append(f"srv-host=_sip._udp.name{number}.lab,name{number}.lab,5060")
    configuration = host.room("dns") / "dnsmasq.conf"
    configuration.write_text("\n".join(lines) + "\n")
    for server, port in _PLACES:
        listens = [f"--listen-address={address}" for address in host.both(server)]
        await host.start(program("dnsmasq"), "-k", f"--conf-file={configuration}", f"--port={port}", *listens)
        await host.listening(UDP, port)


async def visit(host: Host) -> None:
    """Ask one to three questions, as a resolver does for one page."""
    server, port = host.random.choice(_PLACES)
    questions = []
    for _ in range(host.random.choice((1, 1, 2, 3))):
        name = f"name{host.random.randrange(NAMES)}.lab"
        kind = host.random.choice(("A", "A", "AAAA", "MX", "TXT", "SRV"))
        if host.random.random() < 0.1:
            name = f"nothing{host.random.randrange(999)}.lab"
        questions += [f"_sip._udp.{name}" if kind == "SRV" else name, kind]
    options = ["+tries=2", "+time=2", "+tcp" if host.random.random() < 0.08 else "+notcp"]
    options.append(host.random.choice(("+cookie", "+nocookie", "+noedns", "+dnssec")))
    address = host.address(server, host.version())
    await host.run(program("dig"), f"@{address}", "-p", str(port), *options, *questions)


APP = App(
    "dns", "dns", ENDPOINTS, serve, visit, pause_s=3.0,
    programs=("dnsmasq", "dig"), debian=("dnsmasq-base", "bind9-dnsutils"),
)  # fmt: skip
