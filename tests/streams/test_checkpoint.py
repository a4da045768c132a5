"""Flow state as bytes and back; damage is an error, never a crash."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import CodecError
from streams import checkpoint
from streams.partition import Partition
from streams.plan import Plan
from tests.streams.made import FLOWS, SECOND, START_NS, Flow, Made, Run, batch, brisk


def some(plan: Plan, flows: int = 40) -> Run:
    run = Run(plan)
    pool = [*FLOWS, *(Flow("10.0.0.1", "10.0.0.2", i, 443) for i in range(flows))]
    for probe in ("one", "two-ü"):
        for start in range(3):
            run.feed(
                [Made(START_NS + start * 10**8 + i, flow, i % 2) for i, flow in enumerate(pool)],
                probe=probe,
                epoch=start % 2,
                replayed=True,
            )
    run.partition.apply(batch([Made(START_NS)], 0, probe="one", epoch=0), 0, 0)
    return run


def test_state_comes_back_whole(plan: Plan) -> None:
    run = some(plan)
    data = checkpoint.save(run.partition)
    back = checkpoint.load(data, plan, 3, monotonic_ns=7)
    assert back.partition == 3
    assert back.active == run.partition.active > 80
    assert back.counts() == run.partition.counts()
    assert back.state_bytes <= run.partition.state_bytes
    for name, probe in run.partition.probes.items():
        other = back.probes[name]
        assert other.sequences == probe.sequences
        assert list(other.sequences) == list(probe.sequences)
        assert other.replayed is probe.replayed is True
        assert other.heard_ns == 7
        assert other.flows.watermark_ns == probe.flows.watermark_ns
        assert other.flows.save().tobytes() == probe.flows.save().tobytes()
    assert checkpoint.save(back) == data


def test_no_state_comes_back_too(plan: Plan) -> None:
    back = checkpoint.load(checkpoint.save(Partition(plan, 0)), plan, 0, 0)
    assert back.active == 0
    assert back.probes == {}


def test_a_probe_without_open_flows_keeps_its_sequence(plan: Plan) -> None:
    run = Run(plan)
    run.feed([Made(START_NS)])
    run.end()
    run.reload()
    again = run.partition.apply(batch([Made(START_NS)], 0), 0, 0)
    assert list(again) == []
    assert run.counts["batches_duplicate"] == 1


def test_a_silent_probe_is_heard_anew_after_a_handover(plan: Plan) -> None:
    run = Run(plan)
    run.feed([Made(START_NS)], now_ns=0)
    back = checkpoint.load(checkpoint.save(run.partition), plan, 0, monotonic_ns=1000 * SECOND)
    assert list(back.tick(1001 * SECOND, 1001 * SECOND)) == []
    assert len(list(back.tick(1006 * SECOND, 1006 * SECOND))) > 0


def test_rows_freed_before_saving_are_not_saved(plan: Plan) -> None:
    run = some(plan)
    run.feed([Made(START_NS + 60 * SECOND)], probe="one")
    run.sweep()
    saved = run.partition.probes["one"].flows.save()
    assert len(saved) == run.partition.probes["one"].flows.active == 1
    run.reload()
    run.end()
    assert (
        sum(r["packets_fwd"] + r["packets_rev"] for r in run.rows if r.representation == "flow")
        == (run.counts["packets"])
    )


def test_other_features_or_windows_are_refused(plan: Plan, default_plan: Plan) -> None:
    data = checkpoint.save(some(plan).partition)
    with pytest.raises(CodecError, match="partition 2 was made with other features or windows"):
        checkpoint.load(data, default_plan, 2, 0)
    same_rows = [r.model_copy(update={"every_s": r.every_s * 2}) for r in plan.settings.representations]
    assert Plan(brisk(representations=same_rows)).row_dtype == plan.row_dtype
    with pytest.raises(CodecError, match="other features"):
        checkpoint.load(data, Plan(brisk(representations=same_rows)), 2, 0)


def test_other_timeouts_are_taken_over(plan: Plan) -> None:
    data = checkpoint.save(some(plan).partition)
    other = Plan(brisk(idle_timeout_s=20.0, active_timeout_s=30.0))
    back = checkpoint.load(data, other, 0, 0)
    assert list(back.probes["one"].flows.advance(START_NS + 10 * SECOND)) != []
    assert back.active > 80


def test_more_flows_than_the_table_holds_are_refused(plan: Plan) -> None:
    data = checkpoint.save(some(plan).partition)
    with pytest.raises(CodecError, match=r"holds 47 flows, more than streams.max_flows = 16"):
        checkpoint.load(data, Plan(brisk(max_flows=16)), 1, 0)


@pytest.fixture(scope="module")
def data(plan: Plan) -> bytes:
    return checkpoint.save(some(plan, 5).partition)


@settings(max_examples=300, deadline=None)
@given(drawn=st.data())
def test_damaged_bytes_are_codec_errors(plan: Plan, data: bytes, drawn: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(drawn.draw(st.integers(1, 4))):
        act = drawn.draw(st.sampled_from(["flip", "cut", "insert"]))
        at = drawn.draw(
            st.integers(0, max(0, min(len(damaged), 60 if drawn.draw(st.booleans()) else 10**9) - 1))
        )
        if act == "flip" and damaged:
            damaged[at] ^= drawn.draw(st.integers(1, 255))
        elif act == "cut":
            del damaged[at:]
        else:
            damaged[at:at] = drawn.draw(st.binary(min_size=1, max_size=5))
    try:
        back = checkpoint.load(bytes(damaged), plan, 9, 0)
    except CodecError as error:
        assert "flow state of partition 9" in str(error)
    else:  # what was damaged does not matter, such as a byte behind the end
        assert checkpoint.save(back) == data


def repacked(data: bytes, change: dict[str, Any], probe: dict[str, Any]) -> bytes:
    """Return the state with its head changed, correctly packed again."""
    raw = zstandard.ZstdDecompressor().decompress(data)
    (size,) = struct.unpack_from("<I", raw)
    head = json.loads(raw[4 : 4 + size])
    head.update(change)
    if probe:
        head["probes"][0].update(probe)
    text = json.dumps(head).encode()
    return zstandard.ZstdCompressor(write_checksum=True).compress(
        struct.pack("<I", len(text)) + text + raw[4 + size :]
    )


@pytest.mark.parametrize(
    ("change", "probe"),
    [
        ({"probes": 5}, {}),
        ({"probes": [5]}, {}),
        ({"probes": [{}]}, {}),
        ({"counters": 5}, {}),
        ({}, {"rows": -1}),
        ({}, {"rows": "x"}),
        ({}, {"rows": 500}),
        ({}, {"rows": 3}),
        ({}, {"watermark_ns": 1 << 70}),
        ({}, {"watermark_ns": "now"}),
        ({}, {"counters": [1, 2]}),
        ({}, {"counters": [1 << 70] * 9}),
        ({}, {"sequences": [[1]]}),
        ({}, {"sequences": {"a": 1}}),
    ],
)
def test_a_head_that_does_not_fit_is_a_codec_error(
    plan: Plan, data: bytes, change: dict[str, Any], probe: dict[str, Any]
) -> None:
    with pytest.raises(CodecError, match="flow state of partition 9"):
        checkpoint.load(repacked(data, change, probe), plan, 9, 0)


def test_a_huge_size_in_the_frame_is_a_codec_error(plan: Plan) -> None:
    claim = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 50) + b"\x01\0\0"
    with pytest.raises(CodecError):
        checkpoint.load(claim, plan, 0, 0)


def test_a_state_of_many_flows_is_small(plan: Plan) -> None:
    run = Run(Plan(brisk(max_flows=4096)))
    pool = [Flow("10.0.0.1", f"10.1.{i // 250}.{i % 250}", i, 443) for i in range(3000)]
    for start in range(0, 3000, 1500):
        run.feed([Made(START_NS + i, flow) for i, flow in enumerate(pool[start : start + 1500])])
    data = checkpoint.save(run.partition)
    assert len(data) < 3000 * run.plan.row_dtype.itemsize // 3
    assert np.frombuffer(data[:4], "<u4")[0] == 0xFD2FB528
