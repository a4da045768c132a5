"""The flow table's index against a dictionary, under collisions; eviction; memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.compiled import compiled
from schemas.flow_key import hash_words, mix
from streams.config import StreamsSettings
from streams.plan import Plan
from streams.table import (
    ACTIVE,
    BASE_FIELDS,
    HIGH_WATER,
    SAMPLE,
    SECRET,
    Key,
    Table,
    home,
    new_table,
    used_bytes,
)
from streams.table import add as _add
from streams.table import choose_victim as _choose_victim
from streams.table import find as _find
from streams.table import remove as _remove
from tests.conftest import ROOT
from tests.streams.made import SECOND, START_NS, Flow, Made, Run, brisk, flow_hash

DTYPE = np.dtype(BASE_FIELDS)
SIZE = 24


def key_at(place: int, i: int) -> Key:
    """Return the key ``i``, which stands at ``place`` of 64 where no secret is added and the factor is 1."""
    word = ((4 * place + 1) << 56) | 0xFFFFFFFF
    return np.uint64(word), np.uint64(0), np.uint64(i), np.uint64(0), i % 5, 443, 6, 4


KEYS = [key_at(0, i) for i in range(60)]


@compiled
def find(table: Table, flow_hash: np.uint64, key: Key) -> int:
    return _find(table.flows, table.slots, table.meta, flow_hash, key)


@compiled
def add(table: Table, key: Key) -> int:
    return _add(table.slots, table.meta, table.deadlines, key)


@compiled
def remove(table: Table, row: int) -> None:
    _remove(table.flows, table.slots, table.meta, table.deadlines, row)


@compiled
def choose_victim(table: Table) -> int:
    return _choose_victim(table.flows, table.meta)


def enter(table: Table, flow_hash: np.uint64, key: Key) -> int:
    row = int(add(table, key))
    r = table.rows[row]
    r["flow_hash"], r["a0"], r["a1"], r["b0"], r["b1"] = flow_hash, *key[:4]
    r["port_a"], r["port_b"], r["protocol"], r["ip_version"] = key[4:]
    table.deadlines[row] = 5
    return row


@settings(max_examples=200, deadline=None)
@given(
    # Places in the index of 64: all equal, at its end (wrapping round), mixed, or as the table's secret has them.
    places=st.sampled_from([(7,), (63,), (61, 62, 63), tuple(range(64)), ()]),
    one_hash=st.booleans(),
    acts=st.lists(st.tuples(st.booleans(), st.integers(0, 59)), max_size=150),
)
def test_the_table_is_a_dictionary(
    places: tuple[int, ...], one_hash: bool, acts: list[tuple[bool, int]]
) -> None:
    table = new_table(DTYPE, SIZE)
    assert len(table.slots) == 64
    keys = [key_at(places[i % len(places)] if places else 0, i) for i in range(60)]
    if places:
        table.meta[SECRET:-1], table.meta[-1] = 0, 1
        assert [int(home(table.meta, key)) for key in keys] == [places[i % len(places)] for i in range(60)]
    hashes = [np.uint64(0 if one_hash else i) for i in range(60)]
    model: dict[int, int] = {}
    for adding, i in acts:
        if adding and i not in model and len(model) < SIZE:
            row = enter(table, hashes[i], keys[i])
            assert row not in model.values()
            model[i] = row
        elif not adding and i in model:
            row = model.pop(i)
            remove(table, row)
            assert table.deadlines[row] < 0
        assert table.meta[ACTIVE] == len(model)
    for i, key in enumerate(keys):
        assert find(table, hashes[i], key) == model.get(i, -1)
    assert np.count_nonzero(table.slots) == len(model)
    assert np.flatnonzero(table.deadlines[: table.meta[HIGH_WATER]] >= 0).tolist() == sorted(model.values())


def keys_of_one_hash(count: int) -> list[Key]:
    """Return keys whose flow hash is 0, as anyone can choose them: the hash is public, and has an inverse."""
    word, m1, m3 = (1 << 64) - 1, 0x9E3779B97F4A7C15, 0x94D049BB133111EB
    head = np.uint64(((6 << 8 | 6) + m1) & word)
    for _ in range(3):  # the ports, then a0 and b0, which are 0
        head = np.uint64(mix(head))
    before = (int(mix(np.uint64(int(head) ^ (i * m3 & word)))) for i in range(count))
    zero = np.uint64(0)
    return [(zero, np.uint64(i), zero, np.uint64((h - m1) & word), 0, 0, 6, 6) for i, h in enumerate(before)]


def test_keys_chosen_to_collide_are_spread() -> None:
    keys = keys_of_one_hash(2000)
    assert {int(hash_words(*key)) for key in keys} == {0}
    table, other = new_table(DTYPE, 4096), new_table(DTYPE, 4096)
    places = [int(home(table.meta, key)) for key in keys]
    # By chance 2,000 keys take 1,774 of 8,192 places.
    assert 1600 < len(set(places)) < 1950
    assert max(places) < len(table.slots)
    assert places != [int(home(other.meta, key)) for key in keys]


def test_rows_given_back_are_used_before_fresh_ones() -> None:
    table = new_table(DTYPE, SIZE)
    rows = [enter(table, np.uint64(i), KEYS[i]) for i in range(10)]
    for row in (3, 7, 0):
        remove(table, row)
    again = [enter(table, np.uint64(i), KEYS[i]) for i in (20, 21, 22)]
    assert rows == list(range(10))
    assert sorted(again) == [0, 3, 7]
    assert table.meta[HIGH_WATER] == 10
    assert enter(table, np.uint64(30), KEYS[30]) == 10


def test_the_victim_is_the_longest_silent_of_a_sample_and_the_hand_goes_round() -> None:
    table = new_table(DTYPE, 40)
    for i in range(40):
        enter(table, np.uint64(i), KEYS[i])
        table.rows[i]["last_ns"] = 1000 + (i * 7) % 40
    for start in (0, SAMPLE, 2 * SAMPLE, (3 * SAMPLE) % 40):
        looked_at = [(start + step) % 40 for step in range(SAMPLE)]
        assert choose_victim(table) == min(looked_at, key=lambda i: table.rows[i]["last_ns"])


def many(count: int) -> list[Flow]:
    return [Flow("10.0.0.1", "10.0.0.2", i, 443) for i in range(count)]


def test_a_full_table_evicts_and_every_packet_stays_in_one_record() -> None:
    plan = Plan(brisk(max_flows=16))
    rng = np.random.default_rng(5)
    flows = many(50)
    packets = [
        Made(START_NS + i * 1_000_000, flows[int(rng.integers(50))], int(rng.integers(2)), 40 + i)
        for i in range(3000)
    ]
    run = Run(plan)
    for at in range(0, len(packets), 500):
        run.feed(packets[at : at + 500])
        assert run.partition.active <= 16
    assert run.partition.active == 16
    run.end()
    records = [r for r in run.rows if r.representation == "flow"]
    assert sum(r["packets_fwd"] + r["packets_rev"] for r in records) == 3000
    assert sum(r["octets_fwd"] + r["octets_rev"] for r in records) == sum(p.octets for p in packets)
    evicted = run.counts["closed_lack_of_resources"]
    assert evicted == sum(r["flow_end_reason"] == 5 for r in records) > 1000
    assert run.counts["flows_opened"] == len(records)
    windows = [r for r in run.rows if r.representation == "window"]
    assert sum(r["packets_fwd"] + r["packets_rev"] for r in windows) == 3000


def test_an_evicted_flow_that_was_over_ends_for_its_own_reason() -> None:
    plan = Plan(brisk(max_flows=16))
    run = Run(plan)
    flows = many(17)
    # One batch, so that no sweep comes between: the silence of the first sixteen is over before the last comes.
    packets = [Made(START_NS + i, flow) for i, flow in enumerate(flows[:16])]
    run.feed([*packets, Made(START_NS + 3 * SECOND, flows[16])])
    assert run.counts["closed_lack_of_resources"] == 0
    assert run.counts["closed_idle_timeout"] == 16


def test_flows_of_one_hash_stay_apart_while_they_evict_each_other() -> None:
    plan = Plan(brisk(max_flows=16))
    flows = many(20)
    packets = [Made(START_NS + i, flows[i % 20], 0, 1000 + i % 20) for i in range(2000)]
    run = Run(plan)
    run.feed(packets, hashes=dict.fromkeys(flows, flow_hash(flows[0])))
    run.end()
    records = [r for r in run.rows if r.representation == "flow"]
    assert sum(r["packets_fwd"] for r in records) == 2000
    for r in records:
        assert r["octets_fwd"] == r["packets_fwd"] * (1000 + r["source_port"])


def test_a_clock_step_within_a_batch_keeps_flows_of_one_hash_apart(plan: Plan) -> None:
    one, other = many(2)
    run = Run(plan)
    late = START_NS + 100 * SECOND
    packets = [Made(late, one, 0, 500), Made(START_NS, other, 0, 700), Made(START_NS + 1, one, 0, 500)]
    run.feed(packets, hashes=dict.fromkeys((one, other), flow_hash(one)))
    run.end()
    records = sorted(
        (r["source_port"], r["packets_fwd"], r["octets_fwd"]) for r in run.rows if r.representation == "flow"
    )
    assert records == [(0, 1, 500), (0, 1, 500), (1, 1, 700)]


def test_state_is_at_most_256_bytes_for_each_flow_of_a_full_table(default_plan: Plan) -> None:
    assert default_plan.row_dtype.itemsize <= 240
    most = default_plan.settings.max_flows
    table = new_table(default_plan.row_dtype, most)
    assert used_bytes(table) == table.slots.nbytes
    table.meta[HIGH_WATER] = most
    assert used_bytes(table) / most <= 256


MILLION = """
import re, sys
from pathlib import Path
import numpy as np
from producers.columns import allocate
from producers.batcher import Batcher
from schemas.packets import PacketBatch
from streams.config import StreamsSettings
from streams.partition import Partition
from streams.plan import Plan

flows, step = int(sys.argv[1]), 50_000
partition = Partition(Plan(StreamsSettings(max_flows=1 << 20)), 0)
batcher = Batcher(1)
sequence = 0
def peak_kib():
    # getrusage would tell the parent's peak too: it outlives the exec.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kib()
for start in range(0, flows, step):
    columns = allocate(step)
    number = np.arange(start, start + step, dtype=np.uint64)
    columns.flow_hash[:] = number * np.uint64(0x9E3779B97F4A7C15)
    columns.address_a[:, :8] = number.view(np.uint8).reshape(-1, 8)
    columns.time_ns[:] = 1_700_000_000_000_000_000
    columns.octets[:] = 100
    columns.protocol[:] = 17
    columns.ip_version[:] = 4
    for _, views in batcher.add(columns):
        for made in partition.apply(PacketBatch("p", 1, 0, 1, sequence, 0, views), 0, 0):
            pass
        sequence += 1
for _, views in batcher.flush():
    list(partition.apply(PacketBatch("p", 1, 0, 1, sequence, 0, views), 0, 0))
after = peak_kib()
print(partition.active, partition.state_bytes, before, after)
"""


def hold(flows: int) -> list[int]:
    command = [sys.executable, "-c", MILLION, str(flows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=140, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_a_million_active_flows_fit_in_512_mb() -> None:
    hold(50_000)  # a process that had to compile first would need the memory for that
    active, state_bytes, _, after_kib = hold(1_000_000)
    assert active == 1_000_000
    assert state_bytes <= 256 * active
    assert after_kib * 1024 <= 512_000_000, f"the whole process took {after_kib} KiB"


def test_the_smallest_table_works() -> None:
    plan = Plan(StreamsSettings(max_flows=16))
    run = Run(plan)
    run.feed([Made(START_NS + i, flow) for i, flow in enumerate(many(300))])
    assert run.partition.active == 16
