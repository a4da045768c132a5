"""Trains many points of one size at once: all learning rates, seeds and splits of a topology in one program.

A model of this study is far too small to fill a GPU, and Keras trains one at a time. Here the members of a group
differ in weights, rate and packets alone, so that JAX maps one training step over all of them, and a whole epoch is one
call. Models, optimiser, recipe and first weights are those of ``training.train``; the order of packets within an
epoch is drawn otherwise, and sums are rounded otherwise, so a point comes out near what it would alone, not equal.

The one place that needs Keras's backend to be JAX, since no other maps a training step over models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packet.budgets import Topology
from models.packet.scores import Scores, score
from models.packet.training import (
    DivergedError,
    Interrupted,
    Part,
    Recipe,
    Trained,
    optimizer,
    packet_weights,
    rising_steps,
    untrained,
)
from schemas.errors import SettingsError

_ASKED_ROWS = 1024
_NOTHING = -1
Sets = tuple[Part, Part, Part]


@dataclass(frozen=True)
class Member:
    """One training of a group."""

    split: str
    rate: float
    seed: int


@dataclass
class _Packets:
    """One part of all splits, stacked: (splits, most rows, …); rows that a split lacks weigh nothing."""

    octets: Any
    classes: Any
    weights: Any

    @classmethod
    def of(cls, parts: Sequence[Part], weights: Sequence[NDArray[np.float32]]) -> _Packets:
        import jax.numpy as jnp

        most = -(-max(len(part.classes) for part in parts) // _ASKED_ROWS) * _ASKED_ROWS
        octets = np.zeros((len(parts), most, parts[0].octets.shape[1]), np.uint8)
        classes = np.zeros((len(parts), most), np.int32)
        weighed = np.zeros((len(parts), most), np.float32)
        for i, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            rows = len(part.classes)
            octets[i, :rows], classes[i, :rows], weighed[i, :rows] = part.octets, part.classes, weight
        return cls(jnp.asarray(octets), jnp.asarray(classes), jnp.asarray(weighed))


def require_jax() -> None:
    """Raise SettingsError unless Keras runs on JAX."""
    import keras

    if keras.backend.backend() != "jax":
        raise SettingsError(
            f"--together needs KERAS_BACKEND=jax (and pip install jax), not {keras.backend.backend()}"
        )


def train_together(
    topology: Topology,
    sets: dict[str, Sets],
    members: Sequence[Member],
    recipe: Recipe,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda epoch: None,
) -> list[Trained | DivergedError]:
    """Train a group and score each member.

    Args:
        topology: what to build.
        sets: train, validation and test of each split by name.
        members: what to train, in the order of what is returned.
        recipe: how long and with what.
        stop: whether to give up; asked after every epoch.
        progress: told each finished epoch.

    Raises:
        Interrupted: ``stop`` said so.
    """
    group = _Group(topology, sets, members, recipe)
    for epoch in range(recipe.epochs):
        if stop():
            raise Interrupted
        group.train(epoch)
        progress(epoch + 1)
        if not group.running.any():
            break
    return group.trained()


class _Group:
    """Members in training: their weights and optimisers side by side on the device."""

    def __init__(
        self, topology: Topology, sets: dict[str, Sets], members: Sequence[Member], recipe: Recipe
    ) -> None:
        self._topology, self._members, self._recipe = topology, members, recipe
        names = list(sets)
        self._sets = [sets[name] for name in names]
        self._split = np.array([names.index(member.split) for member in members], np.int32)
        weights = [packet_weights(split[0], recipe, topology.classes) for split in self._sets]
        ones = [np.ones(len(split[0].classes), np.float32) for split in self._sets]
        train = [own if own is not None else one for own, one in zip(weights, ones, strict=True)]
        self._train = _Packets.of([split[0] for split in self._sets], train)
        self._steps = np.array([-(-len(split[0].classes) // recipe.batch) for split in self._sets])
        self._most_steps = int(self._steps.max())
        self._start()
        self.running = np.ones(len(members), bool)
        self.diverged = np.zeros(len(members), bool)
        self._best = np.full(len(members), -1.0)
        self._best_epoch = np.zeros(len(members), np.int64)
        self._epochs = np.zeros(len(members), np.int64)

    def _start(self) -> None:
        """Build the model once for each seed, and the two programs: an epoch, and answers."""
        import jax
        import jax.numpy as jnp
        import keras

        recipe, states = self._recipe, {}
        for seed in sorted({member.seed for member in self._members}):
            keras.utils.set_random_seed(seed)
            model = untrained(self._topology, recipe, seed)
            adam = optimizer(1.0)
            adam.build(model.trainable_variables)
            states[seed] = [
                [np.asarray(variable.value) for variable in kind]
                for kind in (model.trainable_variables, model.non_trainable_variables, adam.variables)
            ]
        chosen = [states[member.seed] for member in self._members]
        self._state = jax.tree.map(lambda *each: jnp.asarray(np.stack(each)), *chosen)
        self._kept = self._state[0]
        self._model = model
        self._epoch, self._answer, self._choose = _programs(model, adam, recipe, self._most_steps)

    def train(self, epoch: int) -> None:
        """Train one epoch, and keep the weights of members that got better on validation."""
        import jax.numpy as jnp

        rates = np.array([member.rate for member in self._members], np.float32)
        steps = self._steps[self._split].astype(np.int32)
        self._state, losses = self._epoch(
            self._state, self._order(epoch), self._split, rates, steps, self.running,
            self._train.octets, self._train.classes, self._train.weights,
        )  # fmt: skip
        self._epochs[self.running] += 1
        broken = self.running & ~np.isfinite(np.asarray(losses))
        self.diverged |= broken
        self.running &= ~broken
        right = self._right(1)
        better = self.running & (right > self._best)
        self._best[better], self._best_epoch[better] = right[better], epoch
        self._kept = self._choose(jnp.asarray(better), self._state[0], self._kept)
        self.running &= epoch - self._best_epoch < self._recipe.patience

    def _order(self, epoch: int) -> NDArray[np.int32]:
        """Return the rows of each member's batches, (steps, members, batch)."""
        batch = self._recipe.batch
        out = np.full((len(self._members), self._most_steps * batch), _NOTHING, np.int32)
        for i, member in enumerate(self._members):
            rows = len(self._sets[self._split[i]][0].classes)
            out[i, :rows] = np.random.default_rng([member.seed, epoch]).permutation(rows)
        return out.reshape(len(self._members), self._most_steps, batch).swapaxes(0, 1)

    def _right(self, part: int) -> NDArray[np.float64]:
        """Return each member's accuracy on a part."""
        answers = self._answers(self._state[0], part)
        return np.array(
            [
                np.mean(answers[i].argmax(axis=1) == self._sets[split][part].classes)
                for i, split in enumerate(self._split)
            ]
        )

    def _answers(self, weights: Any, part: int) -> list[NDArray[np.float32]]:
        """Return what each member answers to a part of its split, (rows, classes)."""
        whole = [self._sets[split][part].octets for split in range(len(self._sets))]
        rows = [len(octets) for octets in whole]
        found = []
        for first in range(0, max(rows), _ASKED_ROWS):
            asked = np.zeros((len(whole), _ASKED_ROWS, whole[0].shape[1]), np.uint8)
            for i, octets in enumerate(whole):
                some = octets[first : first + _ASKED_ROWS]
                asked[i, : len(some)] = some
            found.append(self._answer(weights, self._state[1], self._split, asked))
        answers = np.concatenate([np.asarray(each) for each in found], axis=1)
        return [answers[i, : rows[split]] for i, split in enumerate(self._split)]

    def trained(self) -> list[Trained | DivergedError]:
        """Return what became of each member, by the weights that were best on validation."""
        import jax

        # A GPU rounds the factors of a product to ten bits unless told otherwise; what is scored is what is kept.
        with jax.default_matmul_precision("highest"):
            answers = [self._answers(self._kept, part) for part in range(3)]
        kept = [np.asarray(variable) for variable in self._kept]
        order = _places(self._model)
        out: list[Trained | DivergedError] = []
        for i, member in enumerate(self._members):
            weights = [kept[place][i] for place in order]
            if self.diverged[i] or not all(np.isfinite(array).all() for array in weights):
                out.append(
                    DivergedError(
                        f"{self._topology}: the loss is no number with learning rate {member.rate:g}"
                    )
                )
                continue
            train, validation, test = (self._score(part, i, answers[part][i]) for part in range(3))
            rest = ~self._sets[self._split[i]][2].handshake
            bare = self._score(2, i, answers[2][i], rest) if rest.any() else test
            out.append(Trained(weights, int(self._epochs[i]), train, validation, test, bare))
        return out

    def _score(
        self, part: int, i: int, answers: NDArray[np.float32], rows: NDArray[np.bool_] | None = None
    ) -> Scores:
        packets = self._sets[self._split[i]][part]
        if rows is None:
            return score(answers, packets.classes, packets.flows)
        return score(answers[rows], packets.classes[rows], packets.flows[rows])


def _places(model: Any) -> list[int]:
    """Return which of the trained variables each of the model's weights is, in the order that Keras saves them."""
    where = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
    return [where[id(variable)] for variable in model.weights]


def _programs(model: Any, adam: Any, recipe: Recipe, most_steps: int) -> tuple[Any, Any, Any]:
    """Return (an epoch of all members, their answers, a choice between two sets of weights), compiled on first use."""
    import jax
    import jax.numpy as jnp
    import keras

    names = [variable.name for variable in adam.variables]
    counter, place = names.index("iteration"), names.index("learning_rate")

    def loss_of(trained: Any, others: Any, octets: Any, classes: Any, weights: Any, rows: Any) -> Any:
        answers, others = model.stateless_call(trained, others, octets, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(classes, answers)
        return jnp.sum(losses * weights) / jnp.maximum(rows, 1), others

    def step(
        state: Any, rows: Any, split: Any, rate: Any, steps: Any, running: Any, at: Any, packets: Any
    ) -> Any:
        trained, others, kept = state
        there = (rows >= 0) & (at < steps)
        octets, classes, weights = (each[split, rows] for each in packets)
        weights = jnp.where(there, weights, 0.0)
        (loss, new_others), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            trained, others, octets, classes, weights, there.sum()
        )
        kept = list(kept)
        kept[place] = rate * _curve(kept[counter], steps * recipe.epochs)
        new_trained, new_kept = adam.stateless_apply(kept, gradients, trained)
        # A member that has stopped, or has fewer batches than another, stays as it is.
        moves = running & there.any()
        new = [new_trained, new_others, new_kept]
        state = jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, [trained, others, kept])
        return state, jnp.where(moves, loss, 0.0)

    mapped = jax.vmap(step, in_axes=(0, 0, 0, 0, 0, 0, None, None))

    @jax.jit
    def epoch(state: Any, order: Any, split: Any, rates: Any, steps: Any, running: Any, *packets: Any) -> Any:
        def one(state: Any, batch: Any) -> Any:
            at, rows = batch
            return mapped(state, rows, split, rates, steps, running, at, packets)

        state, losses = jax.lax.scan(one, state, (jnp.arange(most_steps), order))
        return state, losses.sum(axis=0)

    def one_answer(trained: Any, others: Any, split: Any, asked: Any) -> Any:
        return model.stateless_call(trained, others, asked[split], training=False)[0]

    @jax.jit
    def choose(better: Any, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)

    return epoch, jax.jit(jax.vmap(one_answer, in_axes=(0, 0, 0, None))), choose


def _curve(done: Any, steps: Any) -> Any:
    """Return the share of the learning rate after so many steps: ``training``'s curve, of numbers JAX traces."""
    import jax.numpy as jnp

    from models.packet.training import FIRST_RATE

    rising = rising_steps(steps)
    up = FIRST_RATE + (1 - FIRST_RATE) * done / jnp.maximum(rising, 1)
    fallen = jnp.clip((done - rising) / jnp.maximum(steps - rising, 1), 0, 1)
    return jnp.where(done < rising, up, 0.5 * (1 + jnp.cos(jnp.pi * fallen)))
