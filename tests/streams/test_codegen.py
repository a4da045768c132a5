"""Generated kernels: nothing that nobody chose, any mix of representations, a cache that may be absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.np.numpy_support import from_dtype
from pydantic import ValidationError

from schemas.errors import SettingsError
from streams.codegen import load_kernel, resolve, row_dtype, source_of
from streams.config import RepresentationSettings, StreamsSettings
from streams.feature import available_features
from streams.plan import Plan
from tests.conftest import ROOT
from tests.streams.made import ALL_FEATURES, SECOND, START_NS, Made, brisk, named, run


def rep(name: str, kind: str, *features: str, **more: object) -> RepresentationSettings:
    return RepresentationSettings.model_validate({"name": name, "kind": kind, "features": features, **more})


def packets(count: int) -> list[Made]:
    return [Made(START_NS + i * SECOND // 10, direction=i % 2, octets=100 + i) for i in range(count)]


@pytest.mark.parametrize("kind", ["early", "window", "flow"])
@pytest.mark.parametrize("chosen", ALL_FEATURES)
def test_a_feature_nobody_chose_is_not_in_the_source(kind: str, chosen: str) -> None:
    resolved = resolve([rep("r", kind, chosen)])
    source = source_of(resolved)
    fields = " ".join(row_dtype(resolved).names or ())
    assert f"{chosen}_emit" in source
    for other in set(available_features()) - {chosen}:
        assert f"{other}_emit" not in source
        assert f"{other}_update" not in source
        assert f"r_{other}" not in fields
    compile(source, "kernel", "exec")


def test_kinds_nobody_chose_cost_no_state() -> None:
    base = row_dtype(resolve([rep("flow", "flow", "protocol", "totals")])).itemsize
    assert base == row_dtype(resolve([rep("early", "early", "totals")])).itemsize
    assert base < row_dtype(resolve([rep("window", "window", "totals")])).itemsize


def test_an_unknown_feature_is_named() -> None:
    with pytest.raises(SettingsError, match=r"streams\.representations.*'no_such'.*totals"):
        Plan(StreamsSettings(representations=(rep("flow", "flow", "totals", "no_such"),)))


@pytest.mark.parametrize("name", ["../x", "os", "", "__init__", "Totals"])
def test_feature_names_that_are_no_feature_are_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        resolve([rep("flow", "flow", name)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "r-x"},
        {"name": "Früh"},
        {"name": "a; import os"},
        {"depth": 0},
        {"depth": 65},
        {"every_s": 0.001},
        {"kind": "late"},
        {"no_such_key": 1},
    ],
)
def test_representations_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RepresentationSettings.model_validate(
            {"name": "r", "kind": "early", "features": ("totals",), **wrong}
        )


def test_two_representations_of_one_name_and_none_at_all_are_refused() -> None:
    with pytest.raises(ValidationError, match="'twice'"):
        StreamsSettings(representations=(rep("twice", "flow"), rep("twice", "early")))
    with pytest.raises(ValidationError):
        StreamsSettings(representations=())


def test_two_features_with_a_column_of_one_name_do_not_exist() -> None:
    names = resolve([rep("r", "flow", *ALL_FEATURES)])[0].names
    assert len(set(names)) == len(names)


def test_representations_without_features_still_tell_who_and_how_much() -> None:
    plan = Plan(brisk(representations=(rep("early", "early"), rep("window", "window"), rep("flow", "flow"))))
    rows = run(plan, packets(12)).rows
    assert {r.features for r in rows} == {b""}
    (flow,) = [r for r in rows if r.representation == "flow"]
    assert (flow["packets_fwd"], flow["packets_rev"], flow["depth"]) == (6, 6, 12)
    assert [r["depth"] for r in rows if r.representation == "early"] == [1, 8]


def test_windows_alone_hold_every_packet() -> None:
    plan = Plan(brisk(representations=(rep("only", "window", "totals", "packet_sequence", depth=2),)))
    assert sum(r["packets_fwd"] + r["packets_rev"] for r in run(plan, packets(25)).rows) == 25


def test_several_depths_and_window_lengths_at_once_up_to_the_largest() -> None:
    plan = Plan(
        brisk(
            active_timeout_s=100.0,
            representations=(
                rep("one", "early", "packet_sequence", "flag_sequence", depth=1),
                rep("nine", "early", "packet_sequence", depth=9),
                rep("many", "early", "packet_sequence", "flag_sequence", depth=64),
                rep("tiny", "window", "totals", every_s=0.01),
                rep("minute", "window", "size_statistics", "gap_statistics", every_s=60.0),
            ),
        )
    )
    made = packets(70)
    rows = run(plan, made).rows
    depths = {n: [r["depth"] for r in rows if r.representation == n] for n in ("one", "nine", "many")}
    assert depths == {"one": [1], "nine": [1, 9], "many": [1, 64]}
    deep = named(plan, next(r for r in rows if r.representation == "many" and r["depth"] == 64))
    for i, packet in enumerate(made[:64], 1):
        assert deep[f"octets_{i}"] == packet.octets
        assert deep[f"direction_{i}"] == 1 - 2 * packet.direction
        assert deep[f"tcp_flags_{i}"] == packet.flags
        assert i == 1 or deep[f"gap_us_{i}"] == 100_000
    assert len([r for r in rows if r.representation == "tiny"]) == 70
    minutes = {p.time_ns // (60 * SECOND) for p in made}
    assert len([r for r in rows if r.representation == "minute"]) == len(minutes)


def test_early_rows_come_at_the_depths_asked_for_and_no_others() -> None:
    plan = Plan(
        brisk(
            representations=(
                rep("usual", "early", "packet_sequence", depth=5),
                rep("steps", "early", "packet_sequence", depths=[5, 1, 2, 2]),
                rep("last", "early", "packet_sequence", depths=[4]),
            )
        )
    )
    made = packets(7)
    rows = run(plan, made).rows
    depths = {n: [r["depth"] for r in rows if r.representation == n] for n in ("usual", "steps", "last")}
    assert depths == {"usual": [1, 5], "steps": [1, 2, 5], "last": [4]}
    # Where both make one, it is the same row.
    usual, steps = (
        {r["depth"]: (r.identity, r.features) for r in rows if r.representation == n}
        for n in ("usual", "steps")
    )
    assert {depth: steps[depth] for depth in usual} == usual


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_a_flow_that_ends_before_the_last_depth_has_one_more_row_where_asked_for(count: int) -> None:
    chosen = rep("steps", "early", "packet_sequence", depths=[1, 3, 5], ends=True)
    without = chosen.model_copy(update={"ends": False})
    rows = run(Plan(brisk(representations=(chosen,))), packets(count)).rows
    assert [r for r in rows if r["flow_end_reason"] == 0] == run(
        Plan(brisk(representations=(without,))), packets(count)
    ).rows
    ends = [(r["depth"], r["flow_end_reason"]) for r in rows if r["flow_end_reason"]]
    assert ends == ([(count, 4)] if count < 5 else [])


def test_ends_nobody_asked_for_are_not_in_the_kernel() -> None:
    source = source_of(resolve([rep("r", "early", "packet_sequence", depths=[1, 3])]))
    assert "def emit_early_end(r, probe_hash, reason, outs, filled):\n    pass\n" in source


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "flow", "depths": [1, 2]}, "of kind flow"),
        ({"kind": "window", "ends": True}, "of kind window"),
        ({"depths": [1, 2], "depth": 8}, "the last of depths is 2"),
        ({"depths": [0]}, "greater than or equal to 1"),
        ({"depths": [65]}, "less than or equal to 64"),
        ({"depths": "1,2"}, "tuple"),
        ({"depths": ["x"]}, "integer"),
    ],
)
def test_depths_that_cannot_be_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RepresentationSettings.model_validate(
            {"name": "r", "kind": "early", "features": ("totals",), **wrong}
        )


def test_equal_choices_share_a_kernel_and_others_do_not() -> None:
    one = resolve([rep("flow", "flow", "totals")])
    assert load_kernel(one) is load_kernel(resolve([rep("flow", "flow", "totals")]))
    assert load_kernel(one) is not load_kernel(resolve([rep("flow", "flow", "protocol")]))


def test_no_row_begins_with_all_of_another() -> None:
    """Numba would take functions compiled for the shorter one for both."""
    shorter = row_dtype(resolve([rep("r", "flow", "totals")]))
    longer = row_dtype(resolve([rep("r", "flow", "totals", "size_statistics")]))
    assert shorter.itemsize < longer.itemsize
    assert shorter.names and longer.names
    assert longer.names[1 : len(shorter.names)] == shorter.names[1:]
    assert from_dtype(longer).can_convert_to(None, from_dtype(shorter)) is None


def test_layouts_tell_apart_what_rows_depend_on() -> None:
    plans = [
        Plan(brisk(representations=(r,)))
        for r in (
            rep("flow", "flow", "totals"),
            rep("flows", "flow", "totals"),
            rep("flow", "early", "totals"),
            rep("flow", "window", "totals"),
            rep("flow", "window", "totals", every_s=2.0),
        )
    ]
    assert len({plan.layout for plan in plans}) == len(plans)
    assert Plan(brisk()).layout == Plan(brisk(idle_timeout_s=9.0)).layout


SCRIPT = """
import sys
from streams.config import RepresentationSettings, StreamsSettings
from streams.plan import Plan
from tests.streams.made import START_NS, Made, run
chosen = RepresentationSettings(name=sys.argv[1], kind="flow", features=("totals",))
plan = Plan(StreamsSettings(representations=(chosen,)))
done = run(plan, [Made(START_NS + i) for i in range(3)])
print(len(done.rows), done.rows[0]["packets_fwd"], plan.kernel.__file__)
"""


def start(cache: Path, name: str = "flow") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name],
        # The machine code goes beside the kernel, not to the folder that the other tests share.
        env={k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"XDG_CACHE_HOME": str(cache)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out.split()


def test_two_processes_at_once_share_an_empty_cache(tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    (one, other) = [finish(process) for process in both]
    assert one == other
    assert one[:2] == ["1", "3"]
    kernel = Path(one[2])
    assert kernel.is_relative_to(tmp_path)
    assert [p.name for p in kernel.parent.iterdir() if p.suffix != ".py" and p.is_file()] == []
    machine_code = sorted((kernel.parent / "__pycache__").iterdir())
    assert machine_code
    stamps = [p.stat().st_mtime_ns for p in machine_code]
    # The third run compiles nothing.
    assert finish(start(tmp_path)) == one
    assert [p.stat().st_mtime_ns for p in sorted((kernel.parent / "__pycache__").iterdir())] == stamps


def test_a_cache_that_cannot_be_written_to_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "flowgauge").write_text("a file where the folder would be")
    got = finish(start(tmp_path))
    assert got[:2] == ["1", "3"]
    assert not Path(got[2]).is_relative_to(tmp_path)
