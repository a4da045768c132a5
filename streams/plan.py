"""A plan: the settings of the flows agent made ready to run, with the kernel and its output buffers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Array
from schemas.packets import NO_EXTRA, PacketBatch
from streams.codegen import load_kernel, needed_columns, resolve, row_dtype
from streams.config import StreamsSettings
from streams.constants import ROOM, Limits
from streams.rows import IDENTITY, IDENTITY_WITH_SERVICE, columns_from

MAX_ROWS = 2048
MAX_MESSAGE_BYTES = 900_000
"""Bound on a feature batch, below the broker's 1 MiB with room for the head."""


class Out(NamedTuple):
    """Buffers the kernel writes a representation's rows to."""

    identity: NDArray[Any]
    features: NDArray[np.float32]


class Plan:
    """What to compute: representations, limits, the row's layout, the kernel. Shared by all flow tables.

    The buffers are shared too, so a plan serves one thread.
    """

    def __init__(self, settings: StreamsSettings) -> None:
        """Compile (or load from the cache) the kernel; raises SettingsError for an unknown feature."""
        self.settings = settings
        self.representations = resolve(settings.computed, settings.feature_files)
        self.services = tuple(service.name for service in settings.services)
        """Names of the services, whose numbers count from 1."""
        has_services = bool(self.services)
        identity = IDENTITY_WITH_SERVICE if has_services else IDENTITY
        self.needs = needed_columns(self.representations)
        """Packet columns that the features need beyond the usual ones."""
        self.row_dtype = row_dtype(self.representations, has_services)
        self.kernel = load_kernel(self.representations, has_services)
        self.limits = Limits(
            idle_ns=round(settings.idle_timeout_s * 1e9),
            active_ns=round(settings.active_timeout_s * 1e9),
            linger_ns=round(settings.tcp_linger_s * 1e9),
            lateness_ns=round(settings.lateness_s * 1e9),
            step_back_ns=round(max(settings.idle_timeout_s, settings.lateness_s) * 1e9),
        )
        self.max_rows = self._buffer_rows()
        """Most rows of a feature batch."""
        self.outs = tuple(
            Out(np.zeros(self.max_rows, identity), np.zeros((self.max_rows, len(rep.names)), np.float32))
            for rep in self.representations
        )
        self.filled = np.zeros(len(self.representations), np.int64)

    def _buffer_rows(self) -> int:
        """Return how many rows fit a message of the widest representation."""
        rows = MAX_ROWS
        for rep in self.representations:
            # The names of the columns stand in each message.
            room = MAX_MESSAGE_BYTES - sum(len(name) + 2 for name in rep.names)
            rows = min(rows, room // (IDENTITY_WITH_SERVICE.itemsize + 4 * len(rep.names)))
        return max(ROOM + 1, rows)

    @cached_property
    def layout(self) -> str:
        """Return a digest of what saved rows depend on: equal layouts can take over each other's state."""
        fields: Mapping[str, Any] = self.row_dtype.fields or {}
        rows = sorted((at, name, str(kind)) for name, (kind, at, *_) in fields.items() if kind.itemsize)
        # When rows are made is no part of a saved row.
        settings = [r.settings.model_dump(exclude={"depths", "ends"}) for r in self.representations]
        shape = repr((rows, settings, self.services))
        return hashlib.sha256(shape.encode()).hexdigest()[:16]

    def missing(self, batch: PacketBatch) -> Sequence[str]:
        """Return the packet columns that the features need and a batch with packets does not have."""
        if self.needs == NO_EXTRA or not batch.packets:
            return ()
        return batch.extra.lacks(self.needs)

    def drain(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield (representation number, columns) of the rows in the buffers, and empty them."""
        drained = [
            (number, columns_from(out.identity[:rows], out.features[:rows]))
            for number, (rows, out) in enumerate(zip(self.filled.tolist(), self.outs, strict=True))
            if rows
        ]
        # Before the caller gets to do anything: another table may fill the buffers between two of these.
        self.filled[:] = 0
        yield from drained
