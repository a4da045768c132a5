"""Models meet their budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.packet.budgets import BUDGETS, KINDS, STEPS, TOLERANCE, Topology, pooled_steps, solve
from schemas.errors import SettingsError


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "svm"])
@given(budget=st.sampled_from(BUDGETS), classes=st.integers(2, 20))
def test_every_budget_is_met_within_two_percent(kind: str, budget: int, classes: int) -> None:
    found = solve(kind, budget, classes)
    assert abs(found.parameters - budget) <= TOLERANCE * budget
    assert found.kind == kind and found.classes == classes
    assert all(width >= 1 for width in found.widths)


def test_counts_by_hand() -> None:
    assert Topology("svm", (), 10).parameters == 14_800 + 10
    assert Topology("mlp", (7,), 3).parameters == 1480 * 7 + 7 + 7 * 3 + 3
    assert Topology("mlp-embedding", (2, 7), 3).parameters == 512 + 2960 * 7 + 7 + 7 * 3 + 3
    assert (
        Topology("lstm-embedding", (4, 20), 10).parameters
        == 1024 + 4 * (20 * 148 + 20 * 20 + 20) + 20 * 10 + 10
    )
    assert Topology("lstm", (48,), 10).parameters == 4 * (48 * 37 + 48 * 48 + 48) + 490
    assert pooled_steps() == 93 and STEPS * 37 == 1480


def test_depth_grows_before_width() -> None:
    assert [len(solve("mlp", budget, 10).widths) for budget in (15_000, 100_000, 400_000, 1_000_000)] == [
        2,
        2,
        3,
        3,
    ]


def test_an_svm_has_one_size() -> None:
    assert solve("svm", 15_000, 10) == solve("svm", 1_000_000, 10)


@pytest.mark.parametrize(
    ("kind", "budget", "classes", "said"),
    [
        ("rnn", 15_000, 10, f"model rnn: there is {', '.join(KINDS)}"),
        ("svm-embedding", 15_000, 10, f"model svm-embedding: there is {', '.join(KINDS)}"),
        ("mlp", 15_000, 1, "1 class: a classifier needs two at least"),
        ("mlp", 1_600, 10, "mlp of 1600 parameters with 10 classes: none comes within 2%"),
    ],
)
def test_what_cannot_be_built_is_said(kind: str, budget: int, classes: int, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        solve(kind, budget, classes)
    assert str(error.value) == said
