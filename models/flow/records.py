"""``HELD`` rows made of feature batches, and ``Prediction`` messages made of those."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from models.flow.waiting import HELD, NOTHING, Rows
from producers.bus import Item
from schemas.features import FeatureBatch
from schemas.flow_key import partitions_of
from schemas.prediction_columns import PredictionColumns, PredictionTexts, encode_columns

UNKNOWN_LABEL = "unknown"
_COPIED = (
    "flow_id",
    "source_address",
    "destination_address",
    "source_port",
    "destination_port",
    "protocol",
    "ip_version",
    "flow_end_reason",
    "start_ns",
    "end_ns",
    "depth",
)
_AS_THEY_ARE = tuple(name for name in _COPIED if name not in ("end_ns", "depth"))


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


def held_rows(
    batch: FeatureBatch, where: NDArray[np.intp], probe: int, representation: int, received_ns: int
) -> Rows:
    """Return the rows ``where`` of a batch, without an answer. Clocks may differ: no stage time is negative."""
    rows = np.zeros(len(where), HELD)
    for name in _COPIED:
        rows[name] = batch.columns[name][where]
    rows["probe"], rows["representation"], rows["replayed"] = probe, representation, batch.replayed
    rows["probe_time_ns"] = batch.probe_time_ns
    rows["bus_to_flows_ns"] = max(0, batch.flows_received_time_ns - batch.probe_time_ns)
    rows["flows_ns"] = max(0, batch.flows_sent_time_ns - batch.flows_received_time_ns)
    rows["bus_to_model_ns"] = max(0, received_ns - batch.flows_sent_time_ns)
    rows["received_ns"] = received_ns
    rows["class"] = rows["tier"] = NOTHING
    return rows


_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = 0x9E3779B97F4A7C15
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


class Publisher:
    """Makes the messages of one model's predictions about flows.

    The id of a final prediction depends on the flow and the model's name alone. So whatever is answered once more
    after a crash, by another tier or version even, overwrites what was said before. That of a provisional one depends
    on the representation and depth, too.
    """

    def __init__(self, model: str, probes: Names, representations: Names, partitions: int) -> None:
        self._model, self._partitions = model, partitions
        self._probes, self._representations = probes, representations
        self._keys: dict[int, int] = {}

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
        kinds = rows["probe"].astype(np.int64) << 32 | rows["representation"].astype(np.int64) << 1
        kinds |= rows["replayed"]
        if (kinds == kinds[0]).all():
            return self._alike(rows, final, classes, version, made_ns)
        items: list[Item | None] = [None] * len(rows)
        for kind in np.unique(kinds):
            where = np.flatnonzero(kinds == kind)
            made = self._alike(rows[where], final, classes, version, made_ns)
            for i, item in zip(where.tolist(), made, strict=True):
                items[i] = item
        return [item for item in items if item is not None]

    def _alike(
        self, rows: Rows, final: bool, classes: Sequence[str], version: str, made_ns: int
    ) -> list[Item]:
        """Return the messages of rows of one probe and representation."""
        first = rows[0]
        labels = [*classes, None, UNKNOWN_LABEL]
        said = np.where(rows["class"] == NOTHING, len(classes), rows["class"]).astype(np.int64)
        if final:
            said[rows["unknown"] & (rows["class"] != NOTHING)] = len(classes) + 1
        texts = PredictionTexts(
            self._probes.texts[first["probe"]],
            self._representations.texts[first["representation"]],
            self._model,
            version,
            bool(first["replayed"]),
            labels,
        )
        columns = PredictionColumns(
            prediction_id=self._ids(rows, final),
            label=said,
            event_time_ns=np.ascontiguousarray(rows["end_ns"]),
            stage_times_ns=_stage_times(rows, made_ns),
            final=np.full(len(rows), final),
            depth=rows["depth"].astype(np.int64),
            tier=rows["tier"].astype(np.int64) + 1,
            confidence=rows["confidence"].astype(np.float64),
            ood=rows["ood"].astype(np.float64),
            **{name: np.ascontiguousarray(rows[name]) for name in _AS_THEY_ARE},
        )
        messages = encode_columns(texts, columns)
        keys = [f"{flow:016x}" for flow in columns.flow_id.tolist()]
        return list(map(Item, messages, partitions_of(columns.flow_id, self._partitions), keys))

    def _ids(self, rows: Rows, final: bool) -> NDArray[np.uint64]:
        """Return prediction ids: a one-to-one mixture of the flow id, so different flows have different ids."""
        kind = -1 if final else int(rows["representation"][0])
        key = self._keys.get(kind)
        if key is None:
            text = "final" if final else f"provisional\0{self._representations.texts[kind]}"
            digest = blake2b(f"{self._model}\0{text}".encode(), digest_size=8).digest()
            key = self._keys[kind] = int.from_bytes(digest, "little")
        word = rows["flow_id"] ^ np.uint64(key)
        if not final:
            word = word + rows["depth"].astype(np.uint64) * np.uint64(_GOLDEN)
        word = (word ^ (word >> _S30)) * _M1
        word = (word ^ (word >> _S27)) * _M2
        mixed: NDArray[np.uint64] = word ^ (word >> _S31)
        return mixed


def _stage_times(rows: Rows, made_ns: int) -> NDArray[np.int64]:
    names = ("probe_time_ns", "bus_to_flows_ns", "flows_ns", "bus_to_model_ns")
    spent = np.maximum(0, made_ns - rows["received_ns"])
    return np.stack([*(rows[name] for name in names), spent], axis=1)
