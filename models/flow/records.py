"""``HELD`` rows made of feature batches, and ``Prediction`` messages made of those."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from models.flow.table import NOTHING, Rows
from producers.bus import Item
from schemas.compiled import compiled
from schemas.features import FeatureBatch
from schemas.flow_key import partitions_of
from schemas.predictions import PredictionTexts, PredictionWriter, fill_predicted

UNKNOWN_LABEL = "unknown"


class Names:
    """Texts by number."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.texts = list(texts)
        self._numbers = {text: number for number, text in enumerate(texts)}

    def number(self, text: str) -> int:
        """Return the number of a text, the next one where it is new."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return number


def fill_rows(
    rows: Rows,
    batch: FeatureBatch,
    where: NDArray[np.intp] | slice,
    probe: int,
    representation: int,
    received_ns: int,
) -> None:
    """Write the rows ``where`` of a batch, without an answer."""
    fill_predicted(rows, batch, where, received_ns)
    rows["probe"], rows["representation"], rows["replayed"] = probe, representation, batch.replayed
    rows["class"] = rows["tier"] = NOTHING


_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@compiled
def _name_all(rows: Rows, key: np.uint64, by_depth: bool, out: NDArray[np.uint64]) -> None:
    """Write prediction ids: a one-to-one mixture of the flow id, so different flows have different ids."""
    for i in range(len(rows)):
        word = rows[i].flow_id ^ key
        if by_depth:
            word += np.uint64(rows[i].depth) * _GOLDEN
        word = (word ^ (word >> _S30)) * _M1
        word = (word ^ (word >> _S27)) * _M2
        out[i] = word ^ (word >> _S31)


@compiled
def _label_all(rows: Rows, final: bool, classes: int, out: NDArray[np.int64]) -> None:
    """Write the number of each answer: that of its class, behind the classes that of none and of "unknown"."""
    for i in range(len(rows)):
        said = np.int64(rows[i]["class"])
        if said == NOTHING:
            out[i] = classes
        else:
            out[i] = classes + 1 if final and rows[i].unknown else said


@compiled
def _are_alike(rows: Rows) -> bool:
    """Return whether all rows are of one probe, representation and replay."""
    first = rows[0]
    for i in range(1, len(rows)):
        row = rows[i]
        if (
            row.probe != first.probe
            or row.representation != first.representation
            or row.replayed != first.replayed
        ):
            return False
    return True


class Publisher:
    """Makes the messages of one model's predictions about flows.

    The id of a final prediction depends on the flow and the model's name alone. So whatever is answered once more
    after a crash, by another tier or version even, overwrites what was said before. That of a provisional one depends
    on the representation and depth, too.
    """

    def __init__(self, model: str, probes: Names, representations: Names, partitions: int) -> None:
        self._model, self._partitions = model, partitions
        self._probes, self._representations = probes, representations
        self._keys: dict[int, np.uint64] = {}
        self._version: tuple[str, Sequence[str]] = ("", ())
        self._writers: dict[tuple[int, int, bool], PredictionWriter] = {}
        """Of the version and its classes, by probe, representation and replay."""

    def items(
        self, rows: Rows, final: bool, classes: Sequence[str], version: str, made_ns: int
    ) -> list[Item]:
        """Return a message for each row, in their order.

        Args:
            rows: (rows,) HELD.
            final: whether these answers are.
            classes: names of the classes.
            version: of the model.
            made_ns: wall clock when the answers were there.
        """
        if not len(rows):
            return []
        if (version, classes) != self._version:
            self._version = version, classes
            self._writers.clear()
        if _are_alike(rows):
            return self._alike(rows, final, made_ns)
        kinds = rows["probe"].astype(np.int64) << 32 | rows["representation"].astype(np.int64) << 1
        kinds |= rows["replayed"]
        items: list[Item | None] = [None] * len(rows)
        for kind in np.unique(kinds):
            where = np.flatnonzero(kinds == kind)
            for i, item in zip(where.tolist(), self._alike(rows[where], final, made_ns), strict=True):
                items[i] = item
        return [item for item in items if item is not None]

    def _alike(self, rows: Rows, final: bool, made_ns: int) -> list[Item]:
        """Return the messages of rows of one probe and representation."""
        first = rows[0]
        representation = int(first["representation"])
        ids, labels = np.empty(len(rows), np.uint64), np.empty(len(rows), np.int64)
        _name_all(rows, self._key(-1 if final else representation), not final, ids)
        _label_all(rows, final, len(self._version[1]), labels)
        writer = self._writer(int(first["probe"]), representation, bool(first["replayed"]))
        messages, keys = writer.encode(rows, ids, labels, final, made_ns)
        return list(zip(messages, partitions_of(rows["flow_id"], self._partitions), keys, strict=True))

    def _writer(self, probe: int, representation: int, replayed: bool) -> PredictionWriter:
        writer = self._writers.get((probe, representation, replayed))
        if writer is None:
            version, classes = self._version
            texts = PredictionTexts(
                self._probes.texts[probe],
                self._representations.texts[representation],
                self._model,
                version,
                replayed,
                (*classes, None, UNKNOWN_LABEL),
            )
            writer = self._writers[probe, representation, replayed] = PredictionWriter(texts)
        return writer

    def _key(self, kind: int) -> np.uint64:
        """Return what is mixed into ids of a kind: the number of a representation, -1 for final answers."""
        key = self._keys.get(kind)
        if key is None:
            text = "final" if kind < 0 else f"provisional\0{self._representations.texts[kind]}"
            digest = blake2b(f"{self._model}\0{text}".encode(), digest_size=8).digest()
            key = self._keys[kind] = np.uint64(int.from_bytes(digest, "little"))
        return key
