"""Trains one model on one split of a data set, and scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packet.budgets import Topology
from models.packet.dataset import TEST, TRAIN, VALIDATION, PacketDataset
from models.packet.scores import Scores, score
from schemas.errors import FlowgaugeError, InputError

RATES: dict[str, tuple[float, ...]] = {
    "svm": (0.01, 0.1, 1.0),
    "mlp": (1e-3, 5e-4, 1e-4),
    "lstm": (1e-2, 5e-3, 1e-3),
    "cnn": (3e-3, 1e-3, 3e-4),
    "transformer": (3e-3, 1e-3, 3e-4),
}
"""Learning rates that the study tries, by body; of an SVM, its C. Those of MLP and LSTM are the Cape Town study's."""
_WARM_UP, FIRST_RATE = 0.05, 0.1
"""Over what share of all steps the rate rises, and from what share of itself."""
_MOST_GRADIENT = 1.0
_PREDICT_ROWS = 512
_UNEVEN = 1.05
Weights = list[NDArray[np.float32]]


class Interrupted(Exception):
    """Training was asked to stop; nothing of it is kept."""


class DivergedError(FlowgaugeError):
    """The loss became NaN or infinite; the message says with what learning rate."""


@dataclass(frozen=True)
class Recipe:
    """How models are trained; all of a study's points share one.

    The learning rate rises over the first steps and falls to zero along a cosine until ``epochs`` are over.
    """

    epochs: int = 30
    patience: int = 8
    """Epochs without a better validation accuracy after which training ends; the best epoch's weights stay."""
    batch: int = 256
    mask: float = 0.0
    """Share of a packet's octets set to zero while training."""
    replace: float = 0.0
    """Share of a packet's octets replaced by random ones while training."""
    dropout: float = 0.0
    """Share of the last layer's inputs left out while training."""
    by_flow: bool = False
    """Weigh packets so that a flow counts as the square root of its packets."""


@dataclass(frozen=True)
class Trained:
    """A trained model and what it scored."""

    weights: Weights
    epochs: int
    train: Scores
    validation: Scores
    test: Scores
    without_handshake: Scores
    """Of the test packets that belong to no handshake."""


@dataclass(frozen=True)
class Part:
    """Packets to train on or to score."""

    octets: NDArray[np.uint8]
    classes: NDArray[np.int32]
    flows: NDArray[np.int64]
    handshake: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Part:
        """Return some of the packets."""
        return Part(self.octets[rows], self.classes[rows], self.flows[rows], self.handshake[rows])


def parts(dataset: PacketDataset, split: str) -> tuple[Part, Part, Part]:
    """Return train, validation and test packets of a split.

    Raises:
        InputError: one class only, or a class without packets to train on or to be tested with; names it.
    """
    if len(dataset.class_names) < 2:
        raise InputError(f"{dataset.path}: {len(dataset.class_names)} class: a classifier needs two at least")
    whole = Part(dataset.vectors, dataset.classes, dataset.flow, dataset.handshake)
    found = []
    for part, name in ((TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")):
        rows = dataset.select(split, part)
        counts = np.bincount(dataset.classes[rows], minlength=len(dataset.class_names))
        if part != VALIDATION and not counts.all():
            missing = dataset.class_names[int(np.argmin(counts))]
            raise InputError(f"{dataset.path}: {missing} has no packet in {name} of the split {split}")
        if not len(rows):
            raise InputError(f"{dataset.path}: no packet in {name} of the split {split}")
        found.append(whole.take(rows))
    return found[0], found[1], found[2]


def train(
    topology: Topology,
    sets: tuple[Part, Part, Part],
    rate: float,
    seed: int,
    recipe: Recipe,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda epoch: None,
) -> Trained:
    """Train a model and score it; the same arguments give the same model on the same machine.

    Args:
        topology: what to build.
        sets: train, validation and test.
        rate: learning rate; of an SVM, its C.
        seed: of everything random.
        recipe: how long and with what.
        stop: whether to give up; asked after every batch.
        progress: told each finished epoch.

    Raises:
        Interrupted: ``stop`` said so.
        DivergedError: the loss is no number.
    """
    fit = _fit_svm if topology.kind == "svm" else _fit_network
    weights, epochs = fit(topology, sets, rate, seed, recipe, stop, progress)
    if not all(np.isfinite(array).all() for array in weights):
        raise DivergedError(f"{topology}: weights that are no numbers with learning rate {rate:g}")
    answer = predictor(topology, weights)
    scored = [score(answer(part.octets), part.classes, part.flows) for part in sets]
    rest = sets[2].take(~sets[2].handshake)
    bare = score(answer(rest.octets), rest.classes, rest.flows) if len(rest.classes) else scored[2]
    return Trained(weights, epochs, scored[0], scored[1], scored[2], bare)


def scored_together(
    topology: Topology, members: Sequence[Weights], sets: tuple[Part, Part, Part]
) -> dict[str, Scores]:
    """Return what the mean of several trainings' answers scores, by part as ``Trained`` names them."""
    answers = [predictor(topology, weights) for weights in members]

    def scored(part: Part) -> Scores:
        mean: NDArray[np.float32] = np.stack([answer(part.octets) for answer in answers]).mean(axis=0)
        return score(mean, part.classes, part.flows)

    found = dict(zip(("train", "validation", "test"), map(scored, sets), strict=True))
    rest = sets[2].take(~sets[2].handshake)
    return {**found, "without_handshake": scored(rest) if len(rest.classes) else found["test"]}


def predictor(topology: Topology, weights: Weights) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from octets, (rows, 1480), to probabilities, (rows, classes), as the trainer gives them."""
    if topology.kind == "svm":
        return lambda octets: linear(octets, weights)
    model = load(topology, weights)
    return lambda octets: model.predict(octets, batch_size=_PREDICT_ROWS, verbose=0)


def load(topology: Topology, weights: Weights) -> Any:
    """Return a ``keras.Model`` with these weights, whichever backend trained them.

    Raises:
        InputError: they are of another shape.
    """
    from models.packet.networks import build

    model = build(topology)
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise InputError(
            f"weights of another shape than {topology}: {' '.join(str(error).split())}"
        ) from None
    return model


def linear(octets: NDArray[np.uint8], weights: Weights) -> NDArray[np.float32]:
    """Return the softmax of a linear model's answers, (rows, classes)."""
    matrix, bias = weights
    values = octets.astype(np.float32) / np.float32(255) @ matrix + bias
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def packet_weights(part: Part, recipe: Recipe, classes: int) -> NDArray[np.float32] | None:
    """Return the weight of each packet, mean 1, such that classes weigh alike; None where they do already."""
    counts = np.bincount(part.classes, minlength=classes)
    if not recipe.by_flow and counts.max() <= _UNEVEN * counts.min():
        return None
    weights = np.ones(len(part.classes))
    if recipe.by_flow:
        _, of_flow, packets = np.unique(part.flows, return_inverse=True, return_counts=True)
        weights = 1 / np.sqrt(packets[of_flow])
    weights /= np.bincount(part.classes, weights, minlength=classes)[part.classes]
    return (weights * (len(weights) / weights.sum())).astype(np.float32)


def _fit_svm(
    topology: Topology,
    sets: tuple[Part, Part, Part],
    rate: float,
    seed: int,
    recipe: Recipe,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> tuple[Weights, int]:
    from sklearn.svm import LinearSVC

    if stop():
        raise Interrupted
    part = sets[0]
    scaled = part.octets.astype(np.float32) / np.float32(255)
    weights = packet_weights(part, recipe, topology.classes)
    # The primal problem: as many unknowns as octets, however many packets there are.
    machine = LinearSVC(C=rate, dual=False, tol=1e-3, max_iter=500, random_state=seed)
    machine.fit(scaled, part.classes, sample_weight=weights)
    matrix, bias = machine.coef_.T, machine.intercept_
    if topology.classes == 2:  # scikit-learn keeps one plane for two classes
        matrix, bias = np.hstack((-matrix, matrix)), np.concatenate((-bias, bias))
    progress(1)
    return [matrix.astype(np.float32), bias.astype(np.float32)], int(machine.n_iter_)


def _fit_network(
    topology: Topology,
    sets: tuple[Part, Part, Part],
    rate: float,
    seed: int,
    recipe: Recipe,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> tuple[Weights, int]:
    import keras

    from models.packet.watch import Watch

    keras.utils.set_random_seed(seed)
    model = untrained(topology, recipe, seed)
    model.compile(
        _optimizer(rate, recipe, len(sets[0].classes)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    best = keras.callbacks.EarlyStopping(
        monitor="val_accuracy", patience=recipe.patience, restore_best_weights=True, mode="max"
    )
    guard = Watch(stop, progress)
    part, validation = sets[0], sets[1]
    history = model.fit(
        part.octets,
        part.classes,
        sample_weight=packet_weights(part, recipe, topology.classes),
        validation_data=(validation.octets, validation.classes),
        epochs=recipe.epochs,
        batch_size=recipe.batch,
        callbacks=[best, guard],
        verbose=0,
    )
    if guard.stopped:
        raise Interrupted
    if guard.diverged:
        raise DivergedError(f"{topology}: the loss is no number with learning rate {rate:g}")
    # Seeds of augmentation and dropout are variables too, but none that an answer depends on.
    trained = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.weights]
    return trained, len(history.history["loss"])


def untrained(topology: Topology, recipe: Recipe, seed: int) -> Any:
    """Return the ``keras.Model`` that a training begins with; ``keras.utils.set_random_seed`` comes before."""
    from models.packet.networks import build

    return build(topology, mask=recipe.mask, replace=recipe.replace, dropout=recipe.dropout, seed=seed)


def _optimizer(rate: float, recipe: Recipe, rows: int) -> Any:
    import keras

    steps = recipe.epochs * -(-rows // recipe.batch)
    rising = int(rising_steps(steps))
    curve = keras.optimizers.schedules.CosineDecay(
        FIRST_RATE * rate, max(1, steps - rising), warmup_target=rate, warmup_steps=rising
    )
    return optimizer(curve)


def optimizer(rate: Any) -> Any:
    """Return the optimiser of all networks, by a learning rate or its schedule."""
    import keras

    return keras.optimizers.Adam(rate, global_clipnorm=_MOST_GRADIENT)


def rising_steps(steps: Any) -> Any:
    """Return over how many of so many steps the rate rises."""
    return (_WARM_UP * steps + 0.5) // 1
