"""The metrics port: what Prometheus reads is what the meters counted, and errors are one line."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from producers.config import MetricsSettings, ReplaySettings
from producers.health import Health
from producers.metrics import serving
from producers.telemetry import StageMeter
from schemas.errors import SettingsError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str, accept: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text: str, parse: Any = plain_text) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (s.name, tuple(sorted((k, v) for k, v in s.labels.items() if v))): s.value
        for family in parse(text)
        for s in family.samples
    }


def meter() -> StageMeter:
    out = StageMeter("flows", "packets")
    out.items_in, out.items_out, out.output_bytes, out.state_bytes, out.lag_records = 10, 7, 99, 4096, 12
    out.drop("duplicate", 3)
    out.count("rows_early", 4)
    out.gauge("lag_s", 1.5)
    out.gauge("accuracy", 0.75)
    for latency_ns in (1, 1 << 20, (1 << 20) - 1, 10**18):
        out.record_ns(latency_ns)
    return out


FLOWS = ("stage", "flows")


@pytest.mark.parametrize(
    ("accept", "parse"),
    [("text/plain", plain_text), ("application/openmetrics-text; version=1.0.0", openmetrics)],
)
def test_prometheus_reads_what_was_counted_over_all_intervals(accept: str, parse: Any) -> None:
    flows = meter()
    flows.snapshot()
    flows.items_in += 5
    flows.drop("duplicate", 1)
    flows.drop("late")
    flows.record_ns(1 << 20)
    port = free_port()
    with serving(MetricsSettings(metrics_port=port), [flows], Health(15)):
        code, text = get(port, "/metrics", accept)
    assert code == 200
    found = samples(text, parse)
    unit = ("unit", "packets")
    assert found["flowgauge_items_total", (("direction", "in"), FLOWS, unit)] == 15
    assert found["flowgauge_items_total", (("direction", "out"), FLOWS, unit)] == 7
    assert found["flowgauge_dropped_total", (("reason", "duplicate"), FLOWS)] == 4
    assert found["flowgauge_dropped_total", (("reason", "late"), FLOWS)] == 1
    assert found["flowgauge_events_total", (("name", "rows_early"), FLOWS)] == 4
    assert found["flowgauge_output_bytes_total", (FLOWS,)] == 99
    assert found["flowgauge_state_bytes", (FLOWS,)] == 4096
    assert found["flowgauge_lag_records", (FLOWS,)] == 12
    assert found["flowgauge_lag_seconds", (FLOWS,)] == 1.5
    assert found["flowgauge_value", (("name", "accuracy"), FLOWS)] == 0.75
    assert found["flowgauge_cpu_seconds_total", (FLOWS,)] >= 0
    assert found["flowgauge_latency_seconds_count", (FLOWS,)] == 5
    sum_s = found["flowgauge_latency_seconds_sum", (FLOWS,)]
    assert sum_s == pytest.approx((1 + 3 * (1 << 20) - 1 + 10**18) / 1e9)
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "flowgauge_latency_seconds_bucket"
    }
    assert buckets[(1 << 20) / 1e9] == 2
    assert buckets[(1 << 21) / 1e9] == 4
    assert buckets[float("inf")] == 5
    assert [buckets[le] for le in sorted(buckets)] == sorted(buckets.values())


def test_health_is_200_while_it_gets_on_and_503_with_the_reason() -> None:
    health = Health(15)
    port = free_port()
    with serving(MetricsSettings(metrics_port=port), [meter()], health):
        assert get(port, "/health") == (503, "nothing has begun yet, 0 s after the start\n")
        health.tick(0, 0)
        assert get(port, "/health?probe=1") == (200, "ok\n")
        assert get(port, "/")[0] == 404


def test_the_port_is_free_again_afterwards_and_no_port_is_no_server() -> None:
    port = free_port()
    for _ in range(2):
        with serving(MetricsSettings(metrics_port=port), [], Health(15)):
            assert get(port, "/metrics")[0] == 200
    with serving(ReplaySettings(), [], Health(15)), pytest.raises(urllib.error.URLError):
        get(port, "/metrics")


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = rf"metrics_port {port}: cannot listen on 127\.0\.0\.1:{port}: Address already in use"
        with (
            pytest.raises(SettingsError, match=said),
            serving(MetricsSettings(metrics_port=port), [], Health(15)),
        ):
            pass
