"""The Keras models: as many parameters as counted, the same training twice, the same answers once exported."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")

from models.packet.budgets import KINDS, Topology, solve  # noqa: E402
from models.packet.dataset import PacketDataset  # noqa: E402
from models.packet.export import TOLERANCE, export, onnx_of  # noqa: E402
from models.packet.networks import (  # noqa: E402
    Augmentation,
    OctetMask,
    OctetReplacement,
    build,
)
from models.packet.runtime import open_model  # noqa: E402
from models.packet.together import require_jax  # noqa: E402
from models.packet.training import (  # noqa: E402
    DivergedError,
    Interrupted,
    Recipe,
    load,
    packet_weights,
    parts,
    predictor,
    scored_together,
    train,
)
from schemas.errors import InputError, SettingsError  # noqa: E402
from tests.models.packet.study_data import CLASSES, dataset  # noqa: E402

_ROOT = Path(__file__).parents[3]
AUGMENTED: dict[str, Any] = {"mask": 0.2, "replace": 0.2}
RECIPE = Recipe(epochs=2, patience=2, batch=32, dropout=0.1, **AUGMENTED)
OCTETS = np.random.default_rng(7).integers(0, 256, (9, 1480), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PacketDataset:
    return dataset(tmp_path_factory.mktemp("made") / "data", rows=40)


@pytest.mark.parametrize("kind", KINDS)
def test_keras_counts_as_we_do(kind: str) -> None:
    topology = solve(kind, 30_000, 7)
    assert build(topology, dropout=0.2, **AUGMENTED).count_params() == topology.parameters


def _packets() -> NDArray[np.uint8]:
    """Return 40 packets of 300 octets and padding."""
    octets = np.zeros((40, 1480), np.uint8)
    octets[:, 20:300] = np.random.default_rng(3).integers(1, 256, (40, 280))
    return octets


def _augmented(kind: type[Augmentation], share: float, octets: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found = kind(share, keras.random.SeedGenerator(5))(octets, training=True)
    return np.asarray(keras.ops.convert_to_numpy(found))


@pytest.mark.parametrize("kind", [OctetMask, OctetReplacement])
def test_packets_are_augmented_while_training_only(kind: type[Augmentation]) -> None:
    octets = _packets()
    once, again = (_augmented(kind, 0.5, octets) for _ in range(2))
    assert once.dtype == np.uint8 and np.array_equal(once, again) and not np.array_equal(once, octets)
    assert not once[:, :20].any() and not once[:, 300:].any(), "masked octets or padding were changed"
    assert np.array_equal(_augmented(kind, 0.0, octets), octets)
    for training in ({}, {"training": False}):
        kept = kind(0.5, keras.random.SeedGenerator(5))(octets, **training)
        assert np.array_equal(keras.ops.convert_to_numpy(kept), octets)


def test_octets_are_masked_and_replaced_by_their_share() -> None:
    octets = _packets()
    assert np.mean(_augmented(OctetMask, 0.2, octets)[:, 20:300] == 0) == pytest.approx(0.2, abs=0.02)
    replaced = _augmented(OctetReplacement, 0.2, octets)[:, 20:300]
    # One in 256 is replaced by itself.
    assert np.mean(replaced != octets[:, 20:300]) == pytest.approx(0.2, abs=0.02)
    assert len(np.unique(replaced[replaced != octets[:, 20:300]])) == 256


def test_an_augmented_model_answers_as_a_plain_one_with_its_weights() -> None:
    topology = solve("lstm-embedding", 15_000, 3)
    keras.utils.set_random_seed(3)
    augmented = build(topology, dropout=0.5, seed=3, **AUGMENTED)
    plain = load(topology, augmented.get_weights())
    assert np.array_equal(augmented(OCTETS), plain(OCTETS))
    assert not np.allclose(augmented(OCTETS, training=True), plain(OCTETS, training=True))


@pytest.mark.parametrize("kind", ["svm", "mlp", "lstm", "lstm-embedding", "cnn"])
def test_an_exported_model_answers_as_keras_does(kind: str, tmp_path: Path) -> None:
    topology = solve(kind, 15_000, 3)
    keras.utils.set_random_seed(3)
    weights = [np.asarray(array) for array in build(topology).get_weights()]
    card = {"classes": list(CLASSES), "split": {"name": "flow"}}
    folder = export(tmp_path, "packets", "1", topology, [weights], card)
    served = open_model(folder)
    assert served.card.kind == kind and served.card.parameters == topology.parameters
    for octets in (OCTETS, OCTETS[:1]):
        answers = served.predict(octets)
        assert answers.shape == (len(octets), 3)
        assert np.abs(answers - predictor(topology, weights)(octets)).max() <= TOLERANCE
        assert np.abs(answers - load(topology, weights).predict(octets, verbose=0)).max() <= TOLERANCE


def test_an_ensemble_answers_the_mean_of_its_members(made: PacketDataset, tmp_path: Path) -> None:
    topology = solve("lstm-embedding", 15_000, 3)
    members = []
    for seed in (1, 2, 3):
        keras.utils.set_random_seed(seed)
        members.append([np.asarray(array) for array in build(topology).get_weights()])
    folder = export(tmp_path, "packets", "3", topology, members, {"classes": list(CLASSES)})
    served = open_model(folder)
    assert served.card.parameters == 3 * topology.parameters
    mean = np.mean([predictor(topology, weights)(OCTETS) for weights in members], axis=0)
    assert np.abs(served.predict(OCTETS) - mean).max() <= TOLERANCE
    sets = parts(made, "flow")
    test = sets[2]
    answers = served.predict(np.ascontiguousarray(test.octets)).argmax(axis=1)
    scores = scored_together(topology, members, sets)
    assert scores["test"].accuracy == np.mean(answers == test.classes)
    assert scores["without_handshake"].packets == np.count_nonzero(~test.handshake)


@pytest.mark.parametrize(("kind", "nodes"), [("lstm", 13), ("lstm-embedding", 13)])
def test_an_exported_lstm_holds_nothing_its_answers_do_not_need(kind: str, nodes: int) -> None:
    import onnx

    topology = solve(kind, 15_000, 3)
    weights = [np.asarray(array) for array in build(topology).get_weights()]
    graph = onnx.load_model_from_string(onnx_of(topology, weights)).graph
    found = [node.op_type for node in graph.node]
    assert found.count("LSTM") == 1 and len(found) == nodes, found


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    topology = Topology("mlp", (4,), 3)
    weights = [np.asarray(array) for array in build(topology).get_weights()]
    with pytest.raises(SettingsError, match="a model's name and version are letters"):
        export(tmp_path, "../up", "1", topology, [weights], {"classes": list(CLASSES)})
    (tmp_path / "packets" / "1").mkdir(parents=True)
    with pytest.raises(InputError, match="is there already"):
        export(tmp_path, "packets", "1", topology, [weights], {"classes": list(CLASSES)})
    with pytest.raises(InputError, match="weights of another shape than mlp 5"):
        onnx_of(Topology("mlp", (5,), 3), weights)


def test_a_seed_gives_the_same_model(made: PacketDataset) -> None:
    sets = parts(made, "flow")
    topology = Topology("mlp", (8, 8), 3)
    one, same = (train(topology, sets, 0.01, 5, RECIPE) for _ in range(2))
    assert one.test == same.test
    assert all(np.array_equal(a, b) for a, b in zip(one.weights, same.weights, strict=True))
    assert one.epochs == 2 and len(one.weights) == 6


def test_an_lstm_learns(made: PacketDataset) -> None:
    sets = parts(made, "flow")
    for part in sets:  # a whole step of a short packet tells the class, as the noise of one octet hardly does
        part.octets[:, 37:] = 0
        part.octets[:, :37] = (part.classes * 80)[:, None]
    recipe = Recipe(epochs=8, patience=8, batch=16)
    assert train(Topology("lstm-embedding", (2, 8), 3), sets, 0.02, 1, recipe).test.accuracy > 0.9


def test_a_loss_that_is_no_number_is_said(made: PacketDataset) -> None:
    with pytest.raises(DivergedError, match="mlp 8: the loss is no number with learning rate 1e"):
        train(Topology("mlp", (8,), 3), parts(made, "flow"), 1e38, 1, RECIPE)


def test_training_stops_when_asked(made: PacketDataset) -> None:
    answers = iter((False, False, True))
    with pytest.raises(Interrupted):
        train(Topology("mlp", (8,), 3), parts(made, "flow"), 0.01, 1, RECIPE, lambda: next(answers))
    assert list(answers) == []


def test_classes_and_flows_weigh_alike(made: PacketDataset) -> None:
    part = parts(made, "flow")[0]
    assert packet_weights(part, Recipe(), 3) is None
    rows = np.flatnonzero((part.classes != 0) | (np.arange(len(part.classes)) < 6))
    weights = packet_weights(part.take(rows), Recipe(by_flow=True), 3)
    assert weights is not None
    sums = np.bincount(part.classes[rows], weights)
    assert sums == pytest.approx([len(rows) / 3] * 3, rel=1e-4)


def test_no_model_names_its_backend() -> None:
    backends = {"tensorflow", "jax", "torch"}
    # Mapping a training over models is what only one backend does; nothing that is trained or served needs it.
    paths = set((_ROOT / "models" / "packet").rglob("*.py"))
    for path in paths - {_ROOT / "models" / "packet" / "together.py"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {name.split(".")[0] for name in names} & backends, path


def test_groups_are_trained_at_once_by_jax_alone() -> None:
    if keras.backend.backend() == "jax":
        pytest.skip("Keras runs on JAX")
    with pytest.raises(SettingsError, match="--together needs KERAS_BACKEND=jax"):
        require_jax()


_JAX = """
import json, sys
import numpy as np
from models.packet.budgets import Topology
from models.packet.dataset import PacketDataset
from models.packet.study.points import Key, point_of, write_point
from models.packet.together import Member, train_together
from models.packet.training import Recipe, parts, predictor, train
from pathlib import Path
import keras
assert keras.backend.backend() == "jax"
topology = Topology("lstm-embedding", (2, 4), 3)
# Nine packets of each part, as many as are asked below: every other number would be compiled anew.
whole = parts(PacketDataset.open(sys.argv[1]), "flow")
sets = [part.take(np.linspace(0, len(part.classes) - 1, 9).astype(int)) for part in whole]
recipe = Recipe(epochs=1, batch=9)
alone = train(topology, tuple(sets), 0.01, 1, recipe)
rates = (0.01, 0.002)
members = [Member("flow", rate, 1) for rate in rates]
both = train_together(topology, {"flow": tuple(sets)}, members, recipe)
octets = np.random.default_rng(7).integers(0, 256, (9, 1480), np.uint8)
changed = Recipe(epochs=2, batch=9, mask=0.2, replace=0.2, dropout=0.1)
augmented = train_together(Topology("mlp", (4,), 3), {"flow": tuple(sets)}, members[:1], changed)
assert len(augmented[0].weights) == 4
for seed, rate, trained in ((1, rates[0], alone), (2, rates[0], both[0]), (2, rates[1], both[1])):
    key = Key("flow", "lstm-embedding", 15000, rate, seed)
    write_point(Path(sys.argv[2]), point_of(key, topology, trained), trained.weights)
    print(json.dumps([key.name, predictor(topology, trained.weights)(octets).tolist()]))
"""


def test_what_jax_trained_alone_and_together_answers_the_same_here(
    made: PacketDataset, tmp_path: Path
) -> None:
    from models.packet.study.points import read_point, read_weights

    pytest.importorskip("jax", reason="jax is not installed: weights of another backend are not tried")
    command = [sys.executable, "-c", _JAX, str(made.path), str(tmp_path)]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    child = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, check=True, timeout=240)
    told = dict(map(json.loads, child.stdout.splitlines()))
    found = {}
    for name, expected in told.items():
        path = tmp_path / f"{name}.json"
        found[name] = read_weights(path)
        answers = predictor(read_point(path).topology, found[name])(OCTETS)
        assert np.abs(answers - np.array(expected)).max() <= TOLERANCE
    alone, first, second = found.values()
    # One step with one batch: whoever trains, it is the same step, up to how sums are rounded.
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(alone, first, strict=True))
    assert not all(np.allclose(a, b, atol=1e-5) for a, b in zip(first, second, strict=True))
