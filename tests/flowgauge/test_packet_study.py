"""``flowgauge study``: its options, and what it says of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgauge import cli
from flowgauge.packet_study import best_point, parse_budget
from schemas.errors import FlowgaugeError, InputError, SettingsError


@pytest.mark.parametrize(("text", "budget"), [("15k", 15_000), ("1M", 1_000_000), ("350000", 350_000)])
def test_budgets_as_people_write_them(text: str, budget: int) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "k", "15.5k", "-15k", "999", "21M", "¹5k"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(SettingsError, match="a number of parameters, such as 15k or 1M"):
        parse_budget(text)


def test_no_best_point_where_nothing_is_finished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished training of the split flow"):
        best_point(tmp_path, "flow")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["packets", "nowhere", "-o", "out", "--models", "rnn"], "model rnn: there is svm, mlp"),
        (["packets", "nowhere", "-o", "out", "--rates", "fast"], "--rates fast: numbers such as"),
        (["packets", "nowhere", "-o", "out", "--budgets", "big"], "--budgets big: a number of parameters"),
    ],
)
def test_wrong_options_are_told_before_keras_loads(arguments: list[str], said: str) -> None:
    with pytest.raises(FlowgaugeError, match=said):
        cli.invoke(["study", *arguments])
