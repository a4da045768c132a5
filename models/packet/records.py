"""``PacketPrediction`` and ``Prediction`` records, made from the rows of a payload batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.packet.rows import flows_of, last_packets, packets_of, votes_of
from schemas.packet_predictions import PacketPredictionWriter, PacketTexts, StageTimes
from schemas.payloads import PayloadBatch, decode_payload_batch, empty_columns
from schemas.prediction_ids import ids_of
from schemas.predictions import PredictionTexts, PredictionWriter

REPRESENTATION = "packet"
"""What a flow's vote was predicted on, in ``predictions.flow``."""


@dataclass(frozen=True)
class Timing:
    """When a payload batch went through the agent, wall clock in ns since the epoch."""

    received_ns: int
    begun_ns: int
    """When the model began with it."""
    made_ns: int


class Rows:
    """The packets of a payload batch with their answers."""

    def __init__(
        self,
        batch: PayloadBatch,
        model: tuple[str, str],
        classes: tuple[str, ...],
        probabilities: NDArray[np.float32],
        timing: Timing,
    ) -> None:
        """Take the name and version of a model, and what it says: (packets, classes)."""
        self.batch, self.probabilities, self._timing = batch, probabilities, timing
        self._flows = flows_of(batch)
        self._packets, named = packets_of(batch)
        self._ids = ids_of(model[0], REPRESENTATION, named)
        self._writers = _writers(batch.probe, *model, batch.replayed, classes)
        self._times = StageTimes(
            batch.sent_time_ns,
            _between(batch.sent_time_ns, timing.received_ns),
            _between(timing.received_ns, timing.begun_ns),
            _between(timing.begun_ns, timing.made_ns),
        )

    def packet_messages(self, with_probabilities: bool) -> tuple[list[bytes], list[str]]:
        """Return a ``PacketPrediction`` message for each packet, and their keys: the flow ids as texts."""
        labels = self.probabilities.argmax(axis=1)
        return self._writers[0].encode(
            self._flows, self._packets, self._ids, labels, self.probabilities, with_probabilities, self._times
        )

    def vote_messages(
        self, last: NDArray[np.int64], labels: NDArray[np.int64], confidences: NDArray[np.float64]
    ) -> tuple[list[bytes], list[str]]:
        """Return a ``Prediction`` message about each flow, and their keys.

        A vote at a packet is named like the packet's own prediction.

        Args:
            last: (flows,) the packet up to which each vote is.
            labels: (flows,) class that the flow's packets give.
            confidences: (flows,) how sure they are of it.
        """
        received_ns, made_ns = self._timing.received_ns, self._timing.made_ns
        rows = votes_of(self._flows, self._packets, last, confidences, self._times, received_ns)
        return self._writers[1].encode(rows, self._ids[last], labels, True, made_ns)


def _between(begin_ns: int, end_ns: int) -> int:
    """Return the time between, as a field holds it. Clocks may differ, wildly too: none is negative."""
    return min(max(0, end_ns - begin_ns), 2**63 - 1)


@lru_cache(maxsize=64)
def _writers(
    probe: str, model: str, version: str, replayed: bool, classes: tuple[str, ...]
) -> tuple[PacketPredictionWriter, PredictionWriter]:
    """Return what writes of packets and what writes of flows."""
    return (
        PacketPredictionWriter(PacketTexts(probe, model, version, replayed, classes)),
        PredictionWriter(PredictionTexts(probe, REPRESENTATION, model, version, replayed, classes)),
    )


def warm_up_messages() -> None:
    """Have what reads and writes messages compiled, or loaded, before a message waits for it."""
    batch = decode_payload_batch(PayloadBatch("none", 0, 0, 1, 0, 0, empty_columns()).encode())
    batch.vectors()
    rows = Rows(batch, ("", ""), ("",), np.empty((0, 1), np.float32), Timing(0, 0, 0))
    rows.packet_messages(True)
    last, _ = last_packets(batch.columns["flow_index"], batch.flows)
    rows.vote_messages(last, last, np.empty(0, np.float64))
