"""The Keras models. Nothing here names Keras's backend: TensorFlow, JAX and torch build and train them alike.

Every model takes octets as they are, uint8 (rows, 1480), scales or embeds them itself, and returns the probability of
each class, float32 (rows, classes). Import this module only where a model is built: it imports Keras.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models.packet.budgets import CONVOLUTIONS, HEADS, STEP_OCTETS, STEPS, Topology, blocks
from models.packet.dataset import VECTOR_OCTETS
from schemas.payloads import MASKED_OCTETS


class Augmentation(layers.Layer):  # type: ignore[misc]
    """Changes packets at random while training, each its own way; does nothing afterwards.

    ``changed`` says how. Layers of a model share their ``seeds``, so that what one draws tells nothing of another's.
    """

    def __init__(self, share: float, seeds: Any) -> None:
        super().__init__()
        self.share = share
        self.seeds = seeds

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the packets, changed where ``training``."""
        return self.changed(inputs) if training and self.share else inputs

    def changed(self, inputs: Any) -> Any:
        """Return the packets, changed."""
        raise NotImplementedError

    def random(self, *shape: Any) -> Any:
        """Return numbers from 0 up to, not including, 1."""
        return keras.random.uniform(shape, seed=self.seeds)


class OctetMask(Augmentation):
    """Sets a share of the octets to zero, scaled or embedded as they are.

    Unlike dropout it does not scale up the others: an octet is a code, not a quantity.
    """

    def changed(self, inputs: Any) -> Any:
        """Return the octets, (rows, 1480, …), masked."""
        # One die per octet, whatever numbers stand for it.
        shape = (*keras.ops.shape(inputs)[:2], *(1,) * (len(inputs.shape) - 2))
        kept = self.random(*shape) >= self.share
        return inputs * keras.ops.cast(kept, inputs.dtype)


class OctetReplacement(Augmentation):
    """Puts random octets in the place of a share of a packet's octets; padding stays."""

    def changed(self, inputs: Any) -> Any:
        """Return the octets, uint8 (rows, 1480), some replaced."""
        shape = keras.ops.shape(inputs)
        places = keras.ops.arange(VECTOR_OCTETS, dtype="int32")
        # A packet ends with its last octet that is not zero.
        end = keras.ops.max(keras.ops.where(inputs != 0, places + 1, 0), axis=1, keepdims=True)
        inside = (places >= MASKED_OCTETS) & (places < end)
        others = keras.random.randint(shape, 0, 256, dtype="int32", seed=self.seeds)
        chosen = inside & (self.random(*shape) < self.share)
        return keras.ops.where(chosen, keras.ops.cast(others, inputs.dtype), inputs)


class Positions(layers.Layer):  # type: ignore[misc]
    """Adds a trained vector to each step, so that attention knows where in the packet it looks."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the vectors, one per step."""
        self.vectors = self.add_weight(shape=shape[1:], initializer="uniform", name="vectors")

    def call(self, inputs: Any) -> Any:
        """Return the steps with their places added."""
        return inputs + self.vectors


def build(
    topology: Topology, *, mask: float = 0.0, replace: float = 0.0, dropout: float = 0.0, seed: int = 0
) -> Any:
    """Return an untrained ``keras.Model``.

    Args:
        topology: its kind and widths.
        mask: share of the octets set to zero while training.
        replace: share of the octets replaced by random ones while training.
        dropout: share of the last layer's inputs left out while training.
        seed: of all these; the weights follow ``keras.utils.set_random_seed``.
    """
    seeds = keras.random.SeedGenerator(seed)
    octets = keras.Input((VECTOR_OCTETS,), dtype="uint8", name="octets")
    x = OctetReplacement(replace, seeds)(octets) if replace else octets
    if topology.body == "lstm":
        x = from_the_end(x)
    if topology.embedding:
        x = layers.Embedding(256, topology.embedding, name="embedding")(x)
    else:
        x = layers.Rescaling(1 / 255, name="scaled")(x)
    if mask:
        x = OctetMask(mask, seeds)(x)
    body = _BODIES[topology.body](x, topology.layers)
    if dropout:
        body = layers.Dropout(dropout, seed=seed)(body)
    answer = layers.Dense(topology.classes, activation="softmax", dtype="float32", name="probabilities")(body)
    return keras.Model(octets, answer, name=topology.kind)


def from_the_end(octets: Any) -> Any:
    """Return a packet's octets with its 40 steps in reverse.

    An LSTM answers with what it remembers at the end. Read forwards, it must carry a short packet's few octets over
    dozens of steps of padding; read from the end it passes the padding first, and answers at the headers.
    """
    steps = layers.Reshape((STEPS, STEP_OCTETS))(octets)
    return layers.Reshape((VECTOR_OCTETS,))(steps[:, ::-1])


def _svm(x: Any, _widths: tuple[int, ...]) -> Any:
    # The answers of a linear SVM, once its weights are set; softmax keeps their order.
    return x


def _mlp(x: Any, widths: tuple[int, ...]) -> Any:
    x = layers.Flatten()(x)
    for width in widths:
        x = layers.Dense(width, activation="relu")(x)
    return x


def _lstm(x: Any, widths: tuple[int, ...]) -> Any:
    # Without cuDNN Keras lets XLA compile the training, which makes it several times faster on a CPU.
    return layers.LSTM(widths[0], use_cudnn=False)(layers.Reshape((STEPS, -1))(x))


def _cnn(x: Any, widths: tuple[int, ...]) -> Any:
    x = layers.Reshape((VECTOR_OCTETS, -1))(x)
    for (kernel, stride), filters in zip(CONVOLUTIONS, (widths[0], *widths), strict=True):
        x = layers.Conv1D(filters, kernel, strides=stride, padding="same", activation="relu")(x)
    # Not pooled over the packet: where in it something stands says much in a protocol.
    return layers.Flatten()(x)


def _transformer(x: Any, widths: tuple[int, ...]) -> Any:
    width, inner = widths
    x = layers.Dense(width)(layers.Reshape((STEPS, -1))(x))
    x = Positions()(x)
    for _ in range(blocks(width)):
        before = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(HEADS, width // HEADS)
        x = layers.Add()([x, attention(before, before)])
        before = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(width)(layers.Dense(inner, activation="relu")(before))])
    return layers.GlobalAveragePooling1D()(x)


_BODIES = {"svm": _svm, "mlp": _mlp, "lstm": _lstm, "cnn": _cnn, "transformer": _transformer}
