"""One nginx process that serves a folder over TLS; shared by the applications on top of HTTP."""

from __future__ import annotations

from pathlib import Path

from infra.lab.app import Endpoint, program
from infra.lab.host import Host


async def serve_folder(
    host: Host, room: Path, endpoints: tuple[Endpoint, ...], plain_ports: tuple[int, ...]
) -> None:
    """Serve ``room/www`` at every endpoint: HTTP/1.1 and HTTP/2 over TLS, without TLS on ``plain_ports``."""
    certificate, key = await host.certificate()
    listens = []
    for endpoint in endpoints:
        tls = "" if endpoint.port in plain_ports else " ssl http2"
        version4, version6 = host.both(endpoint.server)
        listens += [f"listen {version4}:{endpoint.port}{tls};", f"listen [{version6}]:{endpoint.port}{tls};"]
    configuration = room / "nginx.conf"
    folders = " ".join(
        f"{kind}_temp_path {room}/temp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(
        f"""
        user root; worker_processes 1; pid {room}/nginx.pid; error_log {room}/error.log;
        events {{ worker_connections 512; }}
        http {{
          access_log off; {folders} server_tokens off; keepalive_timeout 30s;
          types {{ text/html html; application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}
          server {{
            server_name server.lab; {" ".join(listens)}
            ssl_certificate {certificate}; ssl_certificate_key {key};
            root {room}/www;
            location /upload {{ client_max_body_size 1m; return 204; }}
          }}
        }}
        """
    )
    await host.start(program("nginx"), "-c", str(configuration), "-p", str(room), "-g", "daemon off;")
    await host.listening(endpoints[0].protocol, endpoints[0].port)
