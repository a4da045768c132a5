"""The names of a batcher's packets: who was called what, from which packet on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.names.answers import Answers, new_answers
from producers.names.told import Told
from schemas.packets import join_names

MOST_NAMES = 1 << 17
"""Distinct names kept before those that nothing refers to any more are forgotten."""


class BatchNames:
    """Numbers names, keeps what DNS told, and lists the named packets of each partition's open batch.

    Args:
        partitions: partitions of the batcher.
        max_packets: packets in a full batch.
        wanted: whether names are looked for at all; without, it takes no room.
    """

    def __init__(self, partitions: int, max_packets: int, wanted: bool) -> None:
        self.wanted = wanted
        # A packet may be named twice: as the first of its flow in the batch by DNS, and by what it says itself.
        room = 2 * max_packets if wanted else 0
        self.count = np.zeros(partitions, np.int64)
        self.packet = np.zeros((partitions, room), np.uint16)
        self.name = np.zeros((partitions, room), np.uint32)
        self.source = np.zeros((partitions, room), np.uint8)
        self.answers: Answers = new_answers() if wanted else new_answers(0)
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}

    @property
    def state_bytes(self) -> int:
        """Memory that the arrays take."""
        arrays: tuple[NDArray[Any], ...] = (self.packet, self.name, self.source, *self.answers)
        return sum(array.nbytes for array in arrays)

    def numbers(self, told: Told, start: int, stop: int) -> NDArray[np.uint32]:
        """Return the number of the name of each event from ``start`` up to ``stop``."""
        if len(self._texts) >= MOST_NAMES:
            self._tidy()
        return np.array([self._number(name) for name in told.names(start, stop)], np.uint32)

    def columns(self, partition: int) -> dict[str, NDArray[Any]]:
        """Return the NAME_COLUMNS of a partition's open batch; none of them where it has no names."""
        count = int(self.count[partition])
        if not count:
            return {}
        numbers, index = np.unique(self.name[partition, :count], return_inverse=True)
        return {
            "names": join_names([self._texts[number] for number in numbers.tolist()]),
            "name_packet": self.packet[partition, :count],
            "name_index": index.astype(np.uint16),
            "name_source": self.source[partition, :count],
        }

    def forget_answers(self) -> None:
        """Forget what DNS told: another run of the same packets begins."""
        for array in self.answers:
            array[:] = 0

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._texts)
            self._texts.append(name)
        return number

    def _tidy(self) -> None:
        """Number anew the names that an answer or an open batch refers to, and forget the others."""
        used = [self.answers.name] + [self.name[p, :n] for p, n in enumerate(self.count.tolist())]
        kept = np.unique(np.concatenate(used))
        for numbers in used:
            numbers[:] = np.searchsorted(kept, numbers)
        self._texts = [self._texts[number] for number in kept.tolist()]
        self._numbers = {text: number for number, text in enumerate(self._texts)}
