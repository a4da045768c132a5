"""Web pages over TLS: nginx, and curl with HTTP/1.1 and HTTP/2; some of it without TLS."""

from __future__ import annotations

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host
from infra.lab.nginx import serve_folder

PLAIN = (8080,)
ENDPOINTS = (
    Endpoint(0, 443, TCP), Endpoint(1, 443, TCP), Endpoint(0, 8443, TCP), Endpoint(1, 9001, TCP),
    Endpoint(2, 8080, TCP),
)  # fmt: skip
PAGES = 60


async def serve(host: Host) -> None:
    """Lay out pages of 300 octets to about 60 kB and serve them."""
    room = host.room("web")
    (room / "www").mkdir()
    for number in range(PAGES):
        size = min(60_000, 300 + int(host.random.lognormvariate(8, 1.3)))
        words = (f"{host.random.getrandbits(64):x}" for _ in range(size // 17 + 1))
        (room / "www" / f"{number}.html").write_text(" ".join(words)[:size])
    await serve_folder(host, room, ENDPOINTS, PLAIN)


async def visit(host: Host) -> None:
    """Fetch one to six pages, over one connection or several at once; in one of eight visits send a form."""
    endpoint = host.random.choice(ENDPOINTS)
    url = host.url("http" if endpoint.port in PLAIN else "https", endpoint.server, endpoint.port)
    options = ["-sk", host.random.choice(("--http1.1", "--http2"))]
    if host.random.random() < 0.25:
        options += ["--tls-max", "1.2"]
    if host.random.random() < 0.3:
        options += ["--compressed", "-A", "Mozilla/5.0 (X11; Linux x86_64) Lab/1.0"]
    if host.random.random() < 0.125:
        body = b"x=" + host.random.randbytes(host.random.randint(20, 12_000)).hex().encode()
        # nginx answers before it has read the form, which HTTP/2 tells as a reset stream: not for curl.
        await host.run(
            program("curl"), *options, "--http1.1", "--data-binary", "@-", f"{url}/upload", stdin=body
        )
        return
    count = host.random.choice((1, 1, 1, 2, 3, 4, 6))
    if count > 2 and host.random.random() < 0.3:
        options.append("--parallel")
    targets = [f"{url}/{host.random.randrange(PAGES)}.html" for _ in range(count)]
    await host.run(program("curl"), *options, *(part for t in targets for part in ("-o", "/dev/null", t)))


APP = App(
    "web", "web", ENDPOINTS, serve, visit, pause_s=2.2,
    programs=("nginx", "curl", "openssl"), debian=("nginx", "curl", "openssl"),
)  # fmt: skip
