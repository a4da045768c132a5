"""The services and server names of feature rows: each batch has its own list of texts, a file has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowgauge.recording.layout import NO_VALUE, checked
from schemas.columns import Array
from schemas.features import FeatureBatch

UNKNOWN = "unknown"
"""Stands where services are named in the settings, and a flow belongs to none."""


class Services(NamedTuple):
    """Services of the rows of several batches; ``service`` and ``server_name`` are places in ``texts``."""

    texts: list[str]
    service: Array
    server_name: Array
    found_by: Array


def texts_of(batch: FeatureBatch) -> list[str]:
    """Return the texts that a batch's columns point into."""
    return batch.columns["texts"].tobytes().decode("ascii").split("\n")


def check_services(batch: FeatureBatch) -> None:
    """Raise CodecError for a service whose name cannot be a folder's."""
    if "service" in batch.columns:
        texts = texts_of(batch)
        for place in np.unique(batch.columns["service"]).tolist():
            checked(texts[place], "service")


def services_of(batches: Sequence[FeatureBatch]) -> Services:
    """Return the services of all rows, in the batches' order; a batch without services has NO_VALUE."""
    places: dict[str, int] = {"": 0, UNKNOWN: 1, NO_VALUE: 2}
    found: list[tuple[Array, Array, Array]] = []
    for batch in batches:
        if "service" not in batch.columns:
            none = np.zeros(batch.rows, dtype=np.int32)
            found.append((none + places[NO_VALUE], none, none))
            continue
        here = np.array([places.setdefault(text, len(places)) for text in texts_of(batch)], dtype=np.int32)
        service = here[batch.columns["service"]]
        service[service == places[""]] = places[UNKNOWN]
        found.append((service, here[batch.columns["server_name"]], batch.columns["service_found_by"]))
    service, server_name, found_by = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return Services(list(places), service, server_name, found_by)
