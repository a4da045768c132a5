"""How wide the layers of a model are so that it has a given number of parameters. Arithmetic only, no Keras.

The Cape Town study compared models at fifteen budgets and let depth grow before width. Here depth grows where it
costs little (MLP, transformer); an LSTM stays one layer, since each further layer costs 40 more steps in a row and
about as much speed as it adds parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from models.packet.dataset import VECTOR_OCTETS
from schemas.errors import SettingsError

BUDGETS = (
    15_000, 30_000, 50_000, 100_000, 200_000, 300_000, 350_000, 400_000,
    500_000, 600_000, 700_000, 800_000, 900_000, 950_000, 1_000_000,
)  # fmt: skip
"""Parameters of the study's fifteen points."""
TOLERANCE = 0.02
STEPS, STEP_OCTETS = 40, 37
"""How an LSTM and a transformer read a packet: 40 steps of 37 octets."""
CONVOLUTIONS = ((16, 4), (5, 2), (5, 2))
"""(Octets or steps in the kernel, stride) of the 1D-CNN's layers."""
HEADS = 4
BODIES = ("svm", "mlp", "lstm", "cnn", "transformer")
"""Models that take an octet as one number, as the Cape Town study's do."""
EMBEDDED = "-embedding"
"""Ends the kind of a model that looks up a few learned numbers for each octet instead: an octet is a code."""
KINDS = (*BODIES, *(f"{body}{EMBEDDED}" for body in BODIES[1:]))
_EMBEDDINGS = (4, 3, 5, 2, 6)
"""How many numbers for an octet: the first that meets the budget."""
_OCTET_VALUES = 256
_GOOD = 0.005


@dataclass(frozen=True)
class Topology:
    """A model's kind, the widths of its layers, and how many parameters that makes with so many classes."""

    kind: str
    widths: tuple[int, ...]
    """Those of an embedded kind begin with the embedding's."""
    classes: int

    @property
    def body(self) -> str:
        """Return the kind without how it takes octets."""
        return self.kind.removesuffix(EMBEDDED)

    @property
    def embedding(self) -> int:
        """Return how many learned numbers stand for an octet; 0: its value does."""
        return self.widths[0] if self.kind.endswith(EMBEDDED) else 0

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the widths of the layers behind the embedding."""
        return self.widths[1:] if self.embedding else self.widths

    @property
    def parameters(self) -> int:
        """Return the number of trained parameters."""
        counted = _COUNTS[self.body](self.layers, self.classes, self.embedding or 1)
        return _OCTET_VALUES * self.embedding + counted

    def __str__(self) -> str:
        """Return it in words, as reports show it."""
        if self.kind == "svm":
            return "linear, one versus rest"
        return f"{self.kind} {'-'.join(map(str, self.widths))}"


def solve(kind: str, budget: int, classes: int) -> Topology:
    """Return the topology of a kind that comes closest to a budget, within ``TOLERANCE``.

    Raises:
        SettingsError: no such kind, fewer than two classes, or a budget that the kind cannot meet.
    """
    if kind not in KINDS:
        raise SettingsError(f"model {kind}: there is {', '.join(KINDS)}")
    if classes < 2:
        raise SettingsError(f"{classes} class: a classifier needs two at least")
    if kind == "svm":
        return Topology(kind, (), classes)
    for embedding in _EMBEDDINGS if kind.endswith(EMBEDDED) else (0,):
        best = _nearest(kind, embedding, budget, classes)
        if best is not None:
            return best
    raise SettingsError(f"{kind} of {budget} parameters with {classes} classes: none comes within 2%")


def _nearest(kind: str, embedding: int, budget: int, classes: int) -> Topology | None:
    body, first = kind.removesuffix(EMBEDDED), (embedding,) if embedding else ()
    best, best_rank = None, (2.0, 0.0)
    for widths in _CANDIDATES[body](budget - _OCTET_VALUES * embedding, classes, embedding or 1):
        found = Topology(kind, (*first, *widths), classes)
        missed = abs(found.parameters - budget) / budget
        # Near enough is near enough: then the evener of two shapes wins.
        rank = (max(missed, _GOOD), max(widths) / min(widths))
        if rank < best_rank:
            best, best_rank = found, rank
    return best if best_rank[0] <= TOLERANCE else None


def _svm(_widths: tuple[int, ...], classes: int, _channels: int) -> int:
    return classes * VECTOR_OCTETS + classes


def _dense(sizes: Iterable[int]) -> int:
    return sum(a * b + b for a, b in pairwise(sizes))


def _mlp(widths: tuple[int, ...], classes: int, channels: int) -> int:
    return _dense((VECTOR_OCTETS * channels, *widths, classes))


def _lstm(widths: tuple[int, ...], classes: int, channels: int) -> int:
    (units,) = widths
    return 4 * (units * (STEP_OCTETS * channels + units) + units) + _dense((units, classes))


def pooled_steps() -> int:
    """Return how many steps the 1D-CNN's last layer has."""
    steps = VECTOR_OCTETS
    for _kernel, stride in CONVOLUTIONS:
        steps = -(-steps // stride)
    return steps


def _cnn(widths: tuple[int, ...], classes: int, channels: int) -> int:
    total = 0
    for (kernel, _stride), filters in zip(CONVOLUTIONS, (widths[0], *widths), strict=True):
        total += kernel * channels * filters + filters
        channels = filters
    return total + _dense((pooled_steps() * channels, classes))


def blocks(width: int) -> int:
    """Return how many blocks a transformer of that width has: two, one while it is narrow."""
    return 1 if width < 32 else 2


def _transformer(widths: tuple[int, ...], classes: int, channels: int) -> int:
    width, inner = widths
    block = 4 * (width * width + width) + 4 * width + _dense((width, inner, width))
    return (
        _dense((STEP_OCTETS * channels, width))
        + STEPS * width
        + blocks(width) * block
        + _dense((width, classes))
    )


_COUNTS: dict[str, Callable[[tuple[int, ...], int, int], int]] = {
    "svm": _svm,
    "mlp": _mlp,
    "lstm": _lstm,
    "cnn": _cnn,
    "transformer": _transformer,
}


def _mlp_candidates(budget: int, classes: int, channels: int) -> Iterable[tuple[int, ...]]:
    # Two hidden layers below 200k, three from there on; the last one fills up what 1,480 inputs leave over.
    depth = 2 if budget < 200_000 else 3
    for width in range(2, budget // (VECTOR_OCTETS * channels) + 1):
        yield from _filled("mlp", (width,) * (depth - 1), budget, classes, channels)


def _filled(
    body: str, first: tuple[int, ...], budget: int, classes: int, channels: int
) -> Iterable[tuple[int, ...]]:
    """Yield ``first`` with the one further width, or two, that bring it nearest to the budget."""
    # The count is linear in the last width.
    base, step = (_COUNTS[body]((*first, n), classes, channels) for n in (1, 2))
    last = 1 + (budget - base) // (step - base)
    yield from ((*first, n) for n in (last, last + 1) if n >= 2)


def _lstm_candidates(budget: int, _classes: int, _channels: int) -> Iterable[tuple[int, ...]]:
    return ((units,) for units in range(4, int((budget / 4) ** 0.5) + 2))


def _cnn_candidates(budget: int, classes: int, channels: int) -> Iterable[tuple[int, ...]]:
    for filters in range(2, int((budget / 5) ** 0.5) + 2):
        yield from _filled("cnn", (filters,), budget, classes, channels)


def _transformer_candidates(budget: int, classes: int, channels: int) -> Iterable[tuple[int, ...]]:
    for width in range(HEADS, int((budget / 4) ** 0.5) + 2, HEADS):
        # An inner layer twice as wide as the model is usual; ``solve`` finds the evenest.
        yield from _filled("transformer", (width,), budget, classes, channels)


_CANDIDATES: dict[str, Callable[[int, int, int], Iterable[tuple[int, ...]]]] = {
    "mlp": _mlp_candidates,
    "lstm": _lstm_candidates,
    "cnn": _cnn_candidates,
    "transformer": _transformer_candidates,
}
