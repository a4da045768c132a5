from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.telemetry import LatencyHistogram, StageMeter
from schemas.codec import decode, encode


@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=200),
    st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]),
)
def test_quantiles_are_within_a_bucket_of_the_exact_ones(values: list[int], q: float) -> None:
    histogram, at_once = LatencyHistogram(), LatencyHistogram()
    for value in values:
        histogram.record_ns(value)
    at_once.record_many_ns(np.array(values, dtype=np.int64))
    exact = sorted(values)[max(0, int(np.ceil(q * len(values))) - 1)]
    found = histogram.quantile_ns(q)
    assert found is not None
    assert abs(found - exact) <= exact / 32 + 0.5
    assert at_once.quantile_ns(q) == found


def test_a_histogram_counts_negative_durations_as_none_at_all_and_forgets() -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile_ns(0.5) is None
    histogram.record_ns(-5, count=3)
    histogram.record_ns(2**63)
    assert histogram.quantile_ns(0.5) == 0
    histogram.clear()
    assert histogram.quantile_ns(0.5) is None


def test_a_snapshot_is_a_cost_record_and_starts_the_next_interval() -> None:
    meter = StageMeter("flows", "packets", "gate")
    meter.items_in, meter.items_out, meter.output_bytes, meter.state_bytes = 10, 7, 99, 4096
    meter.drop("late", 2)
    meter.drop("late")
    meter.drop("never", 0)
    meter.count("evicted")
    meter.record_ns(20)
    begin = time.time_ns()
    record = meter.snapshot(begin + 5_000_000_000)
    assert decode("CostTelemetry", encode("CostTelemetry", record)) == record
    assert record["stage"] == "flows"
    assert record["unit"] == "packets"
    assert record["detail"] == "gate"
    assert record["dropped"] == {"late": 3}
    assert record["counters"] == {"evicted": 1}
    assert (record["items_in"], record["items_out"], record["output_bytes"]) == (10, 7, 99)
    assert (record["latency_p50_ns"], record["latency_p99_ns"]) == (20, 20)
    assert record["cpu_ns"] >= 0
    following = meter.snapshot(begin + 7_000_000_000)
    assert following["interval_ns"] == 2_000_000_000
    assert following["items_in"] == 0
    assert following["dropped"] == following["counters"] == {}
    assert following["latency_p50_ns"] is None
    assert following["state_bytes"] == 4096


def test_gauges_stay_from_interval_to_interval_until_taken_away() -> None:
    meter = StageMeter("models", "rows")
    meter.gauge("accuracy", 0.5)
    meter.gauge("lag_s", 2)
    first = meter.snapshot()
    meter.gauge("accuracy", 0.75)
    meter.gauge("lag_s", None)
    meter.gauge("never", None)
    assert decode("CostTelemetry", encode("CostTelemetry", first)) == first
    assert first["gauges"] == {"accuracy": 0.5, "lag_s": 2.0}
    assert meter.snapshot()["gauges"] == meter.snapshot()["gauges"] == {"accuracy": 0.75}


@pytest.mark.parametrize("now_ns", [0, -1])
def test_a_clock_set_back_gives_no_negative_interval(now_ns: int) -> None:
    assert StageMeter("x", "rows").snapshot(now_ns)["interval_ns"] == 0
