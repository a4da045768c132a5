"""Costs of the pipeline: hops add up, what is lost or behind is told, and the topic is followed."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from confluent_kafka import Producer
from rich.console import Console

from flowgauge.cli import invoke
from flowgauge.costs import GRACE_NS, PipelineCosts, fold
from flowgauge.costs_view import ALL_WELL, NOTHING_YET, as_object, status_line, verdict_text
from flowgauge.costs_watch import parse_window, view
from infra.broker.embedded import EmbeddedBroker
from schemas.codec import encode
from schemas.errors import SettingsError

S = 1_000_000_000
T0 = 1_700_000_000 * S


def record(stage: str, at_s: float, items: int = 0, instance: str = "a:1", **more: Any) -> dict[str, Any]:
    units = {"models": "rows"}
    return {
        "schema_version": 2, "stage": stage, "instance": instance, "detail": "online" if stage == "models" else "",
        "time_ns": T0 + round(at_s * S), "interval_ns": S, "unit": units.get(stage, "packets"), "items_in": items,
        "items_out": items, "dropped": {}, "counters": {}, "cpu_ns": S // 10, "state_bytes": 100,
        "output_bytes": 1000, "latency_p50_ns": None, "latency_p99_ns": None, "lag_records": 0, "gauges": {},
        **more,
    }  # fmt: skip


def run(seconds: int = 5, rows: int = 20) -> list[dict[str, Any]]:
    """Return what a healthy pipeline tells: each second 100 packets, of which the models read so many rows."""
    out = []
    for s in range(1, seconds + 1):
        out.append(record("replay", s, 100))
        out.append(record("flows", s + 0.5, 100, counters={"rows_early": rows, "rows_window": 3}))
        out.append(record("models", s + 0.9, rows, counters={"rows_in_early": rows}))
    return out


def late(stage: str, **more: Any) -> dict[str, Any]:
    """Return a last word that comes long after everything must have arrived."""
    return record(stage, 9, **more)


def words(costs: PipelineCosts) -> list[str]:
    return costs.verdict()


def test_consecutive_hops_add_up() -> None:
    costs = fold([*run(), late("flows"), late("models")])
    hops = [(h.source, h.target, h.unit, h.sent, h.due, h.taken, h.missing) for h in costs.hops()]
    assert hops == [
        ("replay", "flows", "packets", 500, 500, 500, 0),
        ("flows", "models", "rows of features.early", 100, 100, 100, 0),
    ]
    assert words(costs) == []
    assert verdict_text(costs).plain == ALL_WELL
    assert list(costs.stages) == ["replay", "flows", "models"]


def test_payloads_sent_are_packets_that_each_packet_model_has_taken() -> None:
    def taken(at_s: float, model: str, items: int) -> dict[str, Any]:
        return {**record("packet-models", at_s, items), "detail": model}

    told = [record(stage, 1, 50, lag_records=None) for stage in ("payloads", "replay")]
    one = fold([taken(1.5, "apps", 50), *told, taken(9, "apps", 0)])
    assert list(one.stages) == ["replay", "payloads", "packet-models"]
    assert [(h.source, h.target, h.unit, h.sent, h.due, h.taken) for h in one.hops()] == [
        ("payloads", "packet-models", "payloads of packets", 50, 50, 50)
    ]
    assert words(one) == []
    two = fold(
        [*told, taken(1.5, "apps", 50), taken(1.5, "web", 40), taken(9, "apps", 0), taken(9, "web", 0)]
    )
    assert words(two) == ["packet-models web lost 10 payloads of packets"]


def test_packets_that_came_twice_are_no_surplus() -> None:
    again = late("flows", items_in=100, items_out=0, dropped={"duplicate": 100})
    (hop,) = fold([r for r in run() if r["stage"] != "models"] + [again]).hops()
    assert (hop.sent, hop.taken, hop.missing) == (500, 500, 0)


def test_rows_that_never_arrive_are_lost_once_they_are_due() -> None:
    records = [r for r in run() if not (r["stage"] == "models" and r["time_ns"] == T0 + 3_900_000_000)]
    assert words(fold(records)) == []  # they may be on their way, as far as anyone can tell
    records += [late("flows"), late("models")]
    assert words(fold(records)) == ["models lost 20 rows of features.early"]


def test_a_representation_that_no_row_came_of_is_known_from_the_settings() -> None:
    records = [r for r in run() if r["stage"] != "models"] + [
        late("flows"),
        record("models", 1),
        late("models"),
    ]
    assert words(fold(records)) == []
    costs = fold(records, representations={"online": ("early",)})
    assert words(costs) == ["models lost 100 rows of features.early"]


def test_what_waits_is_behind_and_not_lost() -> None:
    records = [r for r in run() if r["stage"] == "replay"]
    flows = late("flows", items=100, lag_records=12_400, gauges={"lag_s": 3.14})
    costs = fold([*records, flows])
    assert words(costs) == ["flows lags: 12,400 messages, 3.1 s behind"]
    assert costs.stages["flows"].behind
    near = fold([*records, late("flows", items=100, lag_records=40, gauges={"lag_s": 0.2})])
    assert words(near) == []
    unknown = fold([*records, late("flows", items=100, lag_records=40)])
    assert words(unknown) == ["flows lags: 40 messages"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"counters": {"batches_missing": 2}}, "flows lost 2 batches of packets: their sequence has gaps"),
        ({"dropped": {"failed": 7}}, "flows dropped 7 packets (failed)"),
        ({"counters": {"messages_set_aside": 1}}, "flows set 1 messages aside, see the topic dead-letters"),
    ],
)
def test_what_a_stage_tells_itself_is_believed(more: dict[str, Any], problem: str) -> None:
    assert words(fold([*run(), late("flows", **more), late("models")])) == [problem]


def test_a_process_without_a_last_word_makes_counts_uncertain() -> None:
    records = [r for r in run() if r["stage"] == "replay"]
    killed = record("flows", 2, 150, instance="a:7")
    heir = [record("flows", s, 100, instance="a:8") for s in (7, 8, 9)]
    assert words(fold([*records, killed, *heir])) == [
        "flows a:7 fell silent without a last word: its last counts are missing"
    ]
    stopped = {**killed, "lag_records": None}
    assert words(fold([*records, stopped, *heir])) == ["flows lost 50 packets"]


def test_read_from_the_middle_nothing_is_lost_that_came_before() -> None:
    records = [record("replay", 1, 1000), *run(9), record("flows", 12), record("models", 12)]
    assert words(fold(records)) == ["flows lost 1,000 packets"]
    costs = fold(records, whole=False)
    assert words(costs) == []
    assert costs.hops()[0].sent == 100 * (9 - GRACE_NS // S)


def test_rates_are_those_of_the_window_over_all_processes() -> None:
    records = [record("flows", s, 100 * s, instance=i) for s in range(1, 6) for i in ("a:1", "b:2")]
    flows = fold(records, window_s=2).stages["flows"]
    rates = flows.rates()
    assert (rates.items_in, rates.output_bytes) == (900.0, 2000.0)
    assert rates.cpu == pytest.approx(0.2)
    assert (flows.items_in, flows.state_bytes, len(flows.live())) == (3000, 200, 2)
    assert flows.cpu_ns_per_item == S / 3000


def test_rates_fade_and_processes_leave_as_time_goes_on() -> None:
    costs = fold(run(), window_s=10)
    assert costs.stages["replay"].rates().items_in == 100
    costs.look(T0 + 60 * S)
    assert costs.stages["replay"].rates().items_in == 0
    assert costs.stages["replay"].live() == []


def test_the_slowest_process_gives_the_latency() -> None:
    fast = record("flows", 1, 5, instance="a:1", latency_p50_ns=2, latency_p99_ns=9)
    slow = record("flows", 1, 5, instance="b:1", latency_p50_ns=4, latency_p99_ns=7)
    flows = fold([fast, slow]).stages["flows"]
    assert (flows.latency_p50_ns, flows.latency_p99_ns) == (4, 9)
    idle = [record("flows", 2, instance=i) for i in ("a:1", "b:1")]
    assert fold([fast, slow, *idle]).stages["flows"].latency_p99_ns == 7


def test_the_table_shows_every_stage_and_what_is_wrong() -> None:
    flows = late("flows", items=100, lag_records=12_400, gauges={"lag_s": 3.14}, dropped={"duplicate": 4})
    costs = fold([*run(), flows, late("models")])
    console = Console(file=io.StringIO(), width=160)
    console.print(view(costs))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line.split() for line in text.splitlines() if line.startswith(" flows "))
    assert row[:7] == ["flows", "1", "100", "packets", "100", "4", "duplicate"]
    assert row[-5:] == ["12.4", "k", "msg", "3.14", "s"]
    assert text.splitlines()[-1].strip() == "flows lags: 12,400 messages, 3.1 s behind"
    assert status_line(costs).endswith("; flows lags: 12,400 messages, 3.1 s behind")
    assert as_object(costs)["problems"] == ["flows lags: 12,400 messages, 3.1 s behind"]


def test_nothing_told_yet() -> None:
    assert verdict_text(fold([])).plain == NOTHING_YET


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("10", 10), ("1500ms", 1.5), ("2m", 120), ("1h", 3600)]
)
def test_windows(text: str, seconds: float) -> None:
    assert parse_window(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "s", "-1s", "2h", "10 days", "nan"])
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(SettingsError, match="--window"):
        parse_window(text)


def produce(broker: EmbeddedBroker, records: list[dict[str, Any]]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for told in records:
        producer.produce("telemetry.cost", encode("CostTelemetry", told), partition=0)
    producer.produce("telemetry.cost", b"poison", partition=0)
    assert producer.flush(20) == 0


@pytest.mark.parametrize("lose", [False, True])
def test_once_tells_how_things_stand(
    embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str], lose: bool
) -> None:
    embedded.create_topic("telemetry.cost", 1)
    last = [late(stage, lag_records=None) for stage in ("flows", "models")]
    records = [*(r for r in run() if not lose or r["stage"] != "models"), *last]
    produce(embedded, records)
    code = invoke(["costs", "--once", "--json", "--bus", embedded.bootstrap])
    told = json.loads(capsys.readouterr().out)
    assert told["records"] == len(records)
    assert told["stages"]["flows"]["items_in"] == 500
    assert told["problems"] == (["models lost 100 rows of features.early"] if lose else [])
    assert code == int(lose)


def test_once_on_an_empty_topic(embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.create_topic("telemetry.cost", 1)
    assert not invoke(["costs", "--once", "--bus", embedded.bootstrap])
    assert NOTHING_YET in capsys.readouterr().out


def gauges(**values: float) -> dict[str, Any]:
    return {"gauges": values}


def test_what_each_probe_is_told_to_be() -> None:
    costs = fold([
        record("probe", 5, 10, detail="north", **gauges(clock_offset_s=0.0012, clock_error_s=0.0006)),
        record("flows", 5, 10, **gauges(probe_heard_s_north=30, probe_silent_s_north=30, probe_heard_s_south=40,
                                        probe_silent_s_south=40, probe_restarts_south=2)),
        # Another worker hears the one: a probe is silent only where nobody hears it.
        record("flows", 5, 10, instance="b:2", **gauges(probe_heard_s_north=0.5)),
    ])  # fmt: skip
    north, south = costs.probes()
    assert (north.name, north.clock, north.silent, north.heard_s) == ("north", "+1.20 ± 0.60 ms", False, 0.5)
    assert (south.name, south.clock, south.silent, south.restarts) == ("south", "-", True, 2)
    assert "probe south is silent for 40 s" in costs.verdict()
    assert as_object(costs)["probes"][0]["clock_offset_s"] == 0.0012
    console = Console(file=io.StringIO(), width=160)
    console.print(view(costs))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "+1.20 ± 0.60 ms" in text and "clock off by" in text
