"""Messages of things: mosquitto, its publishers (sensors) and subscribers; plain and over TLS."""

from __future__ import annotations

import json

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host

TLS = (8883, 9443)
ENDPOINTS = (Endpoint(0, 1883, TCP), Endpoint(1, 8883, TCP), Endpoint(2, 9443, TCP), Endpoint(3, 1884, TCP))


async def serve(host: Host) -> None:
    """Start one broker with all listeners."""
    certificate, key = await host.certificate()
    lines = ["allow_anonymous true", "persistence false", "user root", "log_type error"]
    for endpoint in ENDPOINTS:
        for address in host.both(endpoint.server):
            lines.append(f"listener {endpoint.port} {address}")
            if endpoint.port in TLS:
                lines += [f"certfile {certificate}", f"keyfile {key}"]
    configuration = host.room("mqtt") / "mosquitto.conf"
    configuration.write_text("\n".join(lines) + "\n")
    await host.start(program("mosquitto"), "-c", str(configuration))


async def visit(host: Host) -> None:
    """Publish a few readings at a sensor's pace, or listen for some seconds."""
    certificate, _ = await host.certificate()
    endpoint = host.random.choice(ENDPOINTS)
    options = ["-h", host.address(endpoint.server, host.version()), "-p", str(endpoint.port)]
    options += ["-q", str(host.random.choice((0, 0, 1, 2))), "-V", host.random.choice(("mqttv311", "mqttv5"))]
    if endpoint.port in TLS:
        options += ["--cafile", str(certificate), "--insecure"]
    unit = host.random.randrange(12)
    if host.random.random() < 0.3:
        seconds = str(host.random.randint(4, 15))
        topic = host.random.choice(("site/#", f"site/{unit}/#"))
        # mosquitto_sub says 27 when its time is up.
        subscriber = [program("mosquitto_sub"), *options, "-t", topic, "-W", seconds, "-k", "5"]
        await host.run("sh", "-c", '"$@" >/dev/null 2>&1; test $? -eq 27', "sh", *subscriber)
        return
    pause_s = host.random.choice((0.1, 0.5, 1.5))
    readings = [
        (
            pause_s,
            json.dumps({"unit": unit, "value": round(host.random.gauss(20, 4), 2), "n": i}).encode() + b"\n",
        )
        for i in range(host.random.randint(1, 6))
    ]
    await host.run(
        program("mosquitto_pub"), *options, "-t", f"site/{unit}/temperature", "-l", typing=readings
    )


APP = App(
    "mqtt", "mqtt", ENDPOINTS, serve, visit, pause_s=1.5,
    programs=("mosquitto", "mosquitto_pub", "mosquitto_sub", "openssl"),
    debian=("mosquitto", "mosquitto-clients", "openssl"),
)  # fmt: skip
