"""Our own LSTM code against the same in NumPy, in double precision."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.packet.lstm.kernel import CHUNK
from models.packet.lstm.network import LstmNetwork
from models.packet.lstm.strassen import FEWEST_UNITS, strassen_weights
from models.packet.lstm.tile import LANES, ROWS, SHORT_ROWS
from models.packet.lstm.weights import LstmWeights, by_block

STEPS, STEP_OCTETS = 6, 5


def weights(units: int, width: int = 1, classes: int = 3, seed: int = 1) -> LstmWeights:
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    return LstmWeights(
        some(256, width),
        some(4 * units, STEP_OCTETS * width),
        some(4 * units, units),
        some(8 * units),
        some(units, classes),
        some(classes),
    )


def packets(rows: int, seed: int = 1, *, full: bool = False) -> np.ndarray:
    """Return packets of octets, most of them with zeros behind."""
    rng = np.random.default_rng(seed)
    octets = rng.integers(0, 256, (rows, STEPS * STEP_OCTETS), np.uint8)
    if not full:
        octets[np.arange(STEPS * STEP_OCTETS) >= rng.integers(0, STEPS * STEP_OCTETS + 1, rows)[:, None]] = 0
    return octets


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def in_numpy(given: LstmWeights, octets: np.ndarray) -> np.ndarray:
    """Return what the LSTM answers, every step of every packet computed."""
    units = given.recurrent.shape[1]
    said = state = np.zeros((len(octets), units))
    for step in reversed(range(STEPS)):
        here = given.table[octets[:, step * STEP_OCTETS : (step + 1) * STEP_OCTETS]].reshape(len(octets), -1)
        sums = here @ given.kernel.T.astype(float) + said @ given.recurrent.T.astype(float)
        sums = sums + given.biases[: 4 * units] + given.biases[4 * units :]
        into, out, kept, cell = np.split(sums, 4, axis=1)
        state = sigmoid(kept) * state + sigmoid(into) * np.tanh(cell)
        said = sigmoid(out) * np.tanh(state)
    answers = np.exp(said @ given.dense + given.bias)
    return answers / answers.sum(axis=1, keepdims=True)


def network(*members: LstmWeights, threads: int = 1, short: bool = False) -> LstmNetwork:
    return LstmNetwork(members, STEPS, STEP_OCTETS, threads, short)


@pytest.mark.parametrize(
    "units", [1, LANES - 1, LANES, 3 * LANES + 2, FEWEST_UNITS + 1, FEWEST_UNITS + LANES]
)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_answers_are_those_of_the_formula(units: int, width: int) -> None:
    given = weights(units, width)
    octets = packets(2 * CHUNK + ROWS + 1)
    assert network(given).predict(octets) == pytest.approx(in_numpy(given, octets), abs=2e-6)


@pytest.mark.parametrize("units", [1, LANES - 1, LANES, 3 * LANES + 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_answers_of_weights_in_16_bits_are_near_the_formula_s(units: int, width: int) -> None:
    given = weights(units, width)
    octets = packets(2 * CHUNK + SHORT_ROWS + 1)
    said = network(given, short=True).predict(octets)
    assert said == pytest.approx(in_numpy(given, octets), abs=1e-3)
    # Sums of integers are exact in any order: a packet's answer does not depend on those beside it.
    assert (network(given, short=True).predict(octets[::-1].copy())[::-1] == said).all()
    assert (network(given, short=True).predict(octets[:1]) == said[:1]).all()


@pytest.mark.parametrize("rows", [2 * ROWS - 1, 2 * ROWS, 5 * ROWS + 1, CHUNK])
def test_two_tiles_of_a_large_lstm_take_seven_products(rows: int) -> None:
    """Without the other weights of these blocks, packets of two tiles are answered the same, and only they."""
    given = weights(FEWEST_UNITS + LANES - 3)
    octets = packets(rows, full=True)
    model = network(given)
    said = model.predict(octets)
    pairs = len(model._layers[0].unit_weights) // 2
    assert pairs * 2 + 1 == len(model._layers[0].unit_weights)
    model._layers[0].unit_weights[: pairs * 2] = 0
    same = (model.predict(octets) == said).all(axis=1)
    assert (same == (np.arange(rows) < rows // (2 * ROWS) * 2 * ROWS)).all()


@pytest.mark.parametrize("units", [FEWEST_UNITS, FEWEST_UNITS + 1])
def test_the_products_make_up_a_matrix_product(units: int) -> None:
    given = weights(units)
    blocks = by_block(given.recurrent, units)
    factors = strassen_weights(blocks, units).reshape(len(blocks) // 2, 7, -1, 4 * LANES)
    half = factors.shape[2]
    said = np.random.default_rng(2).normal(size=(2, 2 * half))
    said[:, units:] = 0
    (a, b), (c, d) = (np.split(row, 2) for row in said)
    left = (a + d, c + d, a, d, a + b, c - a, b - d)
    m = [one @ factor for one, factor in zip(left, factors[0].astype(float), strict=True)]
    made = [[m[0] + m[3] - m[4] + m[6], m[2] + m[4]], [m[1] + m[3], m[0] - m[1] + m[2] + m[5]]]
    for block in range(2):
        wanted = said[:, :units] @ blocks[block].reshape(units, 4 * LANES)
        assert np.array([made[0][block], made[1][block]]) == pytest.approx(wanted, abs=1e-4)


def test_a_small_lstm_has_nothing_to_gain() -> None:
    assert (
        len(
            strassen_weights(
                by_block(weights(FEWEST_UNITS - 1).recurrent, FEWEST_UNITS - 1), FEWEST_UNITS - 1
            )
        )
        == 0
    )


@pytest.mark.parametrize("factor", [1e-3, 1, 1e4])
@pytest.mark.parametrize("largest", [1, 1000])
def test_no_sum_of_weights_in_16_bits_overflows(factor: float, largest: float) -> None:
    """All inputs and weights as large as can be and of one sign; each gate's sum is as large as it gets."""
    units = 2 * LANES
    ones = weights(units)
    given = LstmWeights(
        np.full_like(ones.table, largest), np.full_like(ones.kernel, factor),
        np.full_like(ones.recurrent, factor), np.zeros_like(ones.biases), ones.dense, ones.bias,
    )  # fmt: skip
    octets = np.full((CHUNK + 1, STEPS * STEP_OCTETS), 255, np.uint8)
    assert network(given, short=True).predict(octets) == pytest.approx(in_numpy(given, octets), abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, CHUNK + 2 * ROWS), st.integers(0, 1000), st.booleans())
def test_any_number_of_packets_of_any_length(rows: int, seed: int, full: bool) -> None:
    given = weights(LANES + 1)
    octets = packets(rows, seed, full=full)
    said = network(given).predict(octets)
    assert said == pytest.approx(in_numpy(given, octets), abs=2e-6)
    assert said.sum(axis=1) == pytest.approx(1)


def test_a_packet_alone_is_answered_as_among_others() -> None:
    model = network(weights(2 * LANES))
    octets = packets(CHUNK + 5)
    together = model.predict(octets)
    for row, octets_of_one in enumerate(octets):
        assert model.predict(octets_of_one[None])[0] == pytest.approx(together[row], abs=1e-6)


def test_a_packet_of_zeros_and_none_at_all() -> None:
    given = weights(LANES)
    octets = np.zeros((2, STEPS * STEP_OCTETS), np.uint8)
    assert network(given).predict(octets) == pytest.approx(in_numpy(given, octets), abs=2e-6)
    assert network(given).predict(octets[:0]).shape == (0, 3)


def test_gates_far_open_and_far_closed_are_exact() -> None:
    given = weights(LANES)
    steep = LstmWeights(given.table * 1000, *[getattr(given, name) for name in (
        "kernel", "recurrent", "biases", "dense", "bias")])  # fmt: skip
    octets = packets(50)
    with np.errstate(over="ignore"):
        wanted = in_numpy(steep, octets)
    assert network(steep).predict(octets) == pytest.approx(wanted, abs=2e-6)


def test_several_models_answer_their_mean() -> None:
    members = [weights(LANES + 3, 4, seed=seed) for seed in (1, 2, 3)]
    octets = packets(20)
    wanted = np.mean([in_numpy(member, octets) for member in members], axis=0)
    assert network(*members).predict(octets) == pytest.approx(wanted, abs=2e-6)


def test_threads_share_a_batch() -> None:
    given = weights(LANES)
    octets = packets(5 * CHUNK + 1)
    shared = network(given, threads=3).predict(octets)
    assert shared == pytest.approx(network(given).predict(octets), abs=1e-6)


def test_rows_that_lie_apart_in_memory() -> None:
    given = weights(LANES)
    octets = packets(20)
    assert (network(given).predict(octets[::2]) == network(given).predict(octets[::2].copy())).all()


NO_FMA = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}


@pytest.mark.parametrize(
    ("lanes", "rows", "processor"),
    [
        (4, 2, {}),
        (16, 6, {}),
        pytest.param(
            8, 3, NO_FMA, marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86-64")
        ),
    ],
)
def test_registers_of_another_size(lanes: int, rows: int, processor: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from models.packet.lstm import tile\n"
        f"tile.LANES, tile.ROWS, tile.SHORT_ROWS = {lanes}, {rows}, {rows}\n"
        "from tests.models.packet.lstm import test_network as tests\n"
        "octets = tests.packets(70)\n"
        "few, many = 2 * tile.LANES + 1, tests.FEWEST_UNITS + 3\n"
        "for units, short in ((few, False), (many, False), (few, True)):\n"
        "    given = tests.weights(units, 4)\n"
        "    said = tests.network(given, short=short).predict(octets)\n"
        "    print(abs(said - tests.in_numpy(given, octets)).max())\n"
    )
    surroundings = {**os.environ, **processor, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=surroundings,
    )
    floats, large, shorts = map(float, done.stdout.split())
    assert floats < 2e-6
    assert large < 5e-6
    assert shorts < 1e-3
