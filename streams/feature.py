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
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from schemas.errors import SettingsError
from schemas.packets import NO_EXTRA, Extra


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
    time_ns: int = 0
    """Event time of the packet, in ns since the epoch."""
    protocol: int = 0
    """IANA protocol number."""
    has_sequence: bool = False
    """Whether the two numbers below are there: a TCP packet of a probe that sends them."""
    tcp_sequence: int = 0
    tcp_acknowledgment: int = 0


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
Level = Literal["network", "transport", "application"]
"""What a feature looks at: packets and their times; the transport protocol's fields; what applications do."""


def nothing_extra(depth: int) -> Extra:
    """Return the needs of a feature that gets by with the columns every packet batch has."""
    return NO_EXTRA


@dataclass(frozen=True)
class Feature:
    """Declaration of a feature. ``state`` and ``columns`` may depend on the representation's depth."""

    name: str
    doc: str
    state: Callable[[int], StateFields]
    """Fields of the state record (a NumPy dtype description) for a depth; empty for a stateless feature."""
    columns: Callable[[int], list[FeatureColumn]]
    level: Level
    formula: str = ""
    """How the columns are computed, for the documentation."""
    reference: str = ""
    """Where the definition comes from."""
    kept: tuple[str, ...] = ()
    """Fields of the state that live on when a window closes; the others begin anew at 0."""
    needs: Callable[[int], Extra] = nothing_extra
    """Packet columns that the feature needs beyond the usual ones, for a depth. One that needs heads has
    ``update_head(state, packet, heads, start, stop)`` beside or instead of ``update``."""

    def dtype(self, depth: int) -> np.dtype[Any]:
        """Return the dtype of the feature's state: packed, since state is paid per flow."""
        return np.dtype(self.state(depth))


def available_features() -> tuple[str, ...]:
    """Return the names of the features that ship."""
    package = import_module("streams.features")
    return tuple(sorted(m.name for m in iter_modules(package.__path__)))


def load_feature_module(name: str) -> ModuleType:
    """Return a feature's module by its name; raises SettingsError if there is none."""
    if name not in available_features():
        known = ", ".join(available_features())
        raise SettingsError(f"streams.representations: no feature is named {name!r}; there are {known}")
    return import_module(f"streams.features.{name}")


def load_feature(name: str) -> Feature:
    """Return a feature by its name; raises SettingsError if there is none."""
    feature: Feature = load_feature_module(name).FEATURE
    return feature
