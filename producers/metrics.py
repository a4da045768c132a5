"""A port for Prometheus and for health checks: what ``telemetry.cost`` tells, as totals since the start.

Nothing is counted for it: a scrape reads the stage meters.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from producers.config import MetricsSettings
from producers.health import Health
from producers.telemetry import LatencyHistogram, StageMeter, Totals
from schemas.errors import SettingsError

_REQUEST_TIMEOUT_S = 5.0
_LATENCY_BITS = range(17, 37)
"""Buckets of the latency end at powers of two ns, from 0.13 ms to 69 s, where the meter's own buckets end."""


class MeterCollector(Collector):
    """Reads stage meters when Prometheus asks."""

    def __init__(self, meters: Sequence[StageMeter]) -> None:
        self._meters = meters

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every meter."""
        found = [((m.stage, m.detail), m.unit, m.totals()) for m in self._meters]
        yield from _counters(found)
        yield from _gauges(found)
        latency = HistogramMetricFamily(
            "flowgauge_latency_seconds",
            "Time from the probe to this stage's output.",
            labels=["stage", "detail"],
        )
        for labels, _, totals in found:
            latency.add_metric(labels, _buckets(totals.latency), sum_value=totals.latency.sum_ns / 1e9)
        yield latency


_Found = list[tuple[tuple[str, str], str, Totals]]


def _counters(found: _Found) -> Iterator[Metric]:
    stage = ["stage", "detail"]
    items = CounterMetricFamily(
        "flowgauge_items", "Packets, rows or records.", labels=[*stage, "direction", "unit"]
    )
    dropped = CounterMetricFamily("flowgauge_dropped", "Items dropped.", labels=[*stage, "reason"])
    events = CounterMetricFamily("flowgauge_events", "Other events.", labels=[*stage, "name"])
    cpu = CounterMetricFamily("flowgauge_cpu_seconds", "CPU time of the process.", labels=stage)
    output = CounterMetricFamily("flowgauge_output_bytes", "Bytes handed to the bus.", labels=stage)
    for labels, unit, totals in found:
        items.add_metric([*labels, "in", unit], totals.items_in)
        items.add_metric([*labels, "out", unit], totals.items_out)
        for reason, count in totals.dropped.items():
            dropped.add_metric([*labels, reason], count)
        for name, count in totals.counters.items():
            events.add_metric([*labels, name], count)
        cpu.add_metric(labels, totals.cpu_ns / 1e9)
        output.add_metric(labels, totals.output_bytes)
    yield from (items, dropped, events, cpu, output)


def _gauges(found: _Found) -> Iterator[Metric]:
    stage = ["stage", "detail"]
    state = GaugeMetricFamily("flowgauge_state_bytes", "Memory that holds state.", labels=stage)
    records = GaugeMetricFamily("flowgauge_lag_records", "Messages waiting on the input.", labels=stage)
    seconds = GaugeMetricFamily(
        "flowgauge_lag_seconds", "How far behind the oldest waiting message is.", labels=stage
    )
    values = GaugeMetricFamily("flowgauge_value", "Other values, as they stand.", labels=[*stage, "name"])
    for labels, _, totals in found:
        state.add_metric(labels, totals.state_bytes)
        if totals.lag_records is not None:
            records.add_metric(labels, totals.lag_records)
        for name, value in totals.gauges.items():
            if name == "lag_s":
                seconds.add_metric(labels, value)
            else:
                values.add_metric([*labels, name], value)
    yield from (state, records, seconds, values)


def _buckets(latency: LatencyHistogram) -> list[tuple[str, float]]:
    buckets = [(repr((1 << bits) / 1e9), float(latency.below(bits))) for bits in _LATENCY_BITS]
    return [*buckets, ("+Inf", float(latency.count))]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, health: Health) -> None:
        self.registry, self.health = registry, health
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for this machine's full name, which may take long.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT_S
    server_version = "flowgauge"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encode(self.server.registry))
        elif path == "/health":
            problem = self.server.health.problem()
            self._answer(
                503 if problem else 200, "text/plain; charset=utf-8", f"{problem or 'ok'}\n".encode()
            )
        else:
            self._answer(404, "text/plain; charset=utf-8", b"/metrics and /health are here\n")

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""


@contextmanager
def serving(settings: MetricsSettings, meters: Sequence[StageMeter], health: Health) -> Iterator[None]:
    """Serve ``/metrics`` and ``/health`` while the block runs, unless the port is 0.

    Raises:
        SettingsError: the port cannot be used.
    """
    if not settings.metrics_port:
        yield
        return
    registry = CollectorRegistry()
    registry.register(MeterCollector(meters))
    ProcessCollector(registry=registry)
    where = (settings.metrics_host, settings.metrics_port)
    try:
        server = _Server(where, registry, health)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"metrics_port {where[1]}: cannot listen on {where[0]}:{where[1]}: {why}"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
