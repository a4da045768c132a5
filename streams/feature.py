"""What a feature is: a state per flow, an update per packet, and the columns it emits.

A feature is one module in ``streams/features/`` with a ``FEATURE`` and two compiled functions:

``update(state, packet)``
    folds a ``Packet`` into ``state``, a record of the feature's own dtype that starts as zeros.
``emit(state, totals, out, at)``
    writes the feature's columns into ``out[at:]`` (float32); ``totals`` are the counts every flow has.

The engine fuses exactly the chosen features into one kernel, so a feature that nobody chose costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import SettingsError


class Packet(NamedTuple):
    """A packet as features see it."""

    gap_ns: int
    """Time since the flow's packet before it; 0 for the first and for packets out of order."""
    octets: int
    """Length of the IP packet."""
    payload_octets: int
    """Length of the transport payload."""
    direction: int
    """0: from the flow's source, the sender of its first packet; 1: to it."""
    tcp_flags: int
    tcp_window: int
    ttl: int
    depth: int
    """Number of this packet within the flow, from 1."""


class Totals(NamedTuple):
    """Counts that every row has, whatever features were chosen: of the flow, or of the window."""

    packets_fwd: int
    packets_rev: int
    octets_fwd: int
    octets_rev: int
    duration_ns: int
    """From the first packet to the last; for window rows the length of the window."""
    protocol: int
    ip_version: int


class FeatureColumn(NamedTuple):
    """A column a feature emits."""

    name: str
    unit: str
    doc: str


StateFields = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Feature:
    """Declaration of a feature. ``state`` and ``columns`` may depend on the representation's depth."""

    name: str
    doc: str
    state: Callable[[int], StateFields]
    """Fields of the state record (a NumPy dtype description) for a depth; empty for a stateless feature."""
    columns: Callable[[int], list[FeatureColumn]]

    def dtype(self, depth: int) -> np.dtype[Any]:
        """Return the dtype of the feature's state: packed, since state is paid per flow."""
        return np.dtype(self.state(depth))


def available_features() -> tuple[str, ...]:
    """Return the names of the features that ship."""
    package = import_module("streams.features")
    return tuple(sorted(m.name for m in iter_modules(package.__path__)))


def load_feature(name: str) -> Feature:
    """Return a feature by its name; raises SettingsError if there is none."""
    if name not in available_features():
        known = ", ".join(available_features())
        raise SettingsError(f"streams.representations: no feature is named {name!r}; there are {known}")
    feature: Feature = import_module(f"streams.features.{name}").FEATURE
    return feature
