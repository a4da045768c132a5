"""The names of a probe's flows in one partition: numbers in the flow table, texts in rows, the service of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Array
from schemas.packets import NAME_COLUMNS, join_names, split_names
from streams.services.rules import RuleBook

MOST_NAMES = 1 << 16
"""Names kept before those that no open flow has are forgotten."""


class BatchNames(NamedTuple):
    """The names that a packet batch tells, in the order of packets, as the kernel takes them."""

    packet: NDArray[np.uint16]
    """From which packet of the batch on its flow has the name."""
    name: NDArray[np.uint32]
    service: NDArray[np.uint16]
    source: NDArray[np.uint8]
    """NameSource"""


NO_NAMES = BatchNames(
    np.empty(0, np.uint16), np.empty(0, np.uint32), np.empty(0, np.uint16), np.empty(0, np.uint8)
)


class FlowNames:
    """Numbers the names that batches tell (0 is none) and knows each one's service."""

    def __init__(self, book: RuleBook, texts: Sequence[str] = ("",)) -> None:
        self.book = book
        self.texts = list(texts)
        self._services = [book.service_of_name(text) if text else 0 for text in self.texts]
        self._numbers = {text: number for number, text in enumerate(self.texts)}

    def of_batch(self, columns: Mapping[str, Array]) -> BatchNames:
        """Return the names of a packet batch."""
        if NAME_COLUMNS[0].name not in columns:
            return NO_NAMES
        numbers = np.array([self._number(name) for name in split_names(columns["names"])], np.uint32)
        index = columns["name_index"]
        services = np.array([self._services[n] for n in numbers.tolist()], np.uint16)
        # Columns of messages are read-only, a batcher's are not; copies of so few mean one compilation.
        return BatchNames(
            columns["name_packet"].copy(), numbers[index], services[index], columns["name_source"].copy()
        )

    def forget(self, in_use: NDArray[np.uint32]) -> NDArray[np.uint32] | None:
        """Forget names that nobody has, if they are many; return the new number of each of ``in_use``.

        None: all stay as they are.
        """
        if len(self.texts) < MOST_NAMES:
            return None
        kept = np.unique(np.append(in_use, 0))
        self.texts = [self.texts[number] for number in kept.tolist()]
        self._services = [self._services[number] for number in kept.tolist()]
        self._numbers = {text: number for number, text in enumerate(self.texts)}
        return np.searchsorted(kept, in_use).astype(np.uint32)

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self.texts)
            self.texts.append(name)
            self._services.append(self.book.service_of_name(name))
        return number


def told(columns: Mapping[str, Array], names: Sequence[str], services: Sequence[str]) -> dict[str, Array]:
    """Return the SERVICE_COLUMNS of feature rows, from the numbers that the kernel wrote.

    Args:
        columns: with ``service``, ``service_found_by`` and ``server_name`` as numbers.
        names: texts of ``server_name``.
        services: names of the services; ``service`` counts them from 1.
    """
    used_services, service = np.unique(columns["service"], return_inverse=True)
    used_names, name = np.unique(columns["server_name"], return_inverse=True)
    texts = [services[number - 1] if number else "" for number in used_services.tolist()]
    at = len(texts)
    texts += [names[number] for number in used_names.tolist()]
    return {
        "texts": join_names(texts),
        "service": service.astype(np.uint16),
        "service_found_by": columns["service_found_by"],
        "server_name": (name + at).astype(np.uint16),
    }
