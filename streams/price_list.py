"""The price of each of some features, alone and in the company of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.packets import NO_EXTRA, Extra
from streams.codegen import needed_columns, resolve
from streams.config import RepresentationSettings, StreamsSettings
from streams.engine import FeatureEngine
from streams.prices import CpuPrice, Footprint, Load, Pair, Timed, cpu_price, footprint


@dataclass(frozen=True)
class Price:
    """What a feature adds: to a kernel without features (alone), or to one with all the others (company)."""

    cpu: CpuPrice
    """ns per packet."""
    record_bytes: float
    """Compressed, per row."""
    plain_record_bytes: float


@dataclass(frozen=True)
class FeaturePrice:
    """The price of one feature."""

    name: str
    level: str
    needs: Extra
    state_bytes: int
    """Per flow, in the representation's depth."""
    packet_bytes: float
    """What probes send more of each packet for its sake."""
    alone: Price
    company: Price


@dataclass(frozen=True)
class PriceList:
    """Prices of features in one representation, measured on one load."""

    features: list[FeaturePrice]
    base_cpu: CpuPrice
    """Of the flow table and the counts that every row has, without features."""
    base: Footprint
    together: Price
    """What all features add to it."""
    whole: Footprint


Step = Callable[[str, int, int], None]
"""Told what is done (``compiled`` or ``measured``), how far and of how many."""
Names = tuple[str, ...]


class PriceMaker:
    """Makes kernels of one representation and prices features in it.

    Args:
        settings: timeouts, and files with features of the user's.
        representation: kind, period and depth; its features do not matter.
        load: what to measure with; its batches hold what all features need.
    """

    def __init__(self, settings: StreamsSettings, representation: RepresentationSettings, load: Load) -> None:
        self._settings, self._representation, self._load = settings, representation, load
        self._timed: dict[Names, Timed] = {}
        self._left: dict[Names, Footprint] = {}

    def left(self, features: Names) -> Footprint:
        """Return what a set of features leaves behind; raises SettingsError for an unknown one."""
        if features not in self._left:
            self.timed(features)
        return self._left[features]

    def timed(self, features: Names) -> Timed:
        """Return the kernel of a set of features, compiled and run once; raises SettingsError."""
        if features not in self._timed:
            engine = engine_of(self._settings, self._representation, features)
            self._timed[features] = Timed(engine, self._load)
            self._timed[features].run()
            self._left[features] = footprint(engine, self._load)
        return self._timed[features]

    def price(
        self,
        features: Names,
        repeats: int,
        on_step: Step = lambda what, done, total: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> PriceList | None:
        """Measure; None if it was stopped."""
        alone = {name: ((), (name,)) for name in features}
        company = {name: (tuple(n for n in features if n != name), features) for name in features}
        pairs = dict.fromkeys([((), features), *alone.values(), *company.values()])
        sets = dict.fromkeys(some for pair in pairs for some in pair)
        for done, some in enumerate(sets):
            if stop():
                return None
            self.timed(some)
            on_step("compiled", done + 1, len(sets))
        base: list[NDArray[np.int64]] = []
        measured = {pair: Pair(self.timed(pair[0]), self.timed(pair[1])) for pair in pairs}
        for done in range(repeats):
            for pair in measured.values():
                if stop():
                    return None
                pair.measure()
            base.append(self.timed(()).run())
            on_step("measured", done + 1, repeats)
        prices = {pair: self._price(pair, cost.price()) for pair, cost in measured.items()}
        found = [self._feature(name, prices[alone[name]], prices[company[name]]) for name in features]
        cpu = cpu_price(np.array(base, np.float64), self.timed(()).packets)
        return PriceList(found, cpu, self.left(()), prices[(), features], self.left(features))

    def _price(self, pair: tuple[Names, Names], cpu: CpuPrice) -> Price:
        without, having = self.left(pair[0]), self.left(pair[1])
        return Price(
            cpu,
            having.record_bytes - without.record_bytes,
            having.plain_bytes_of_row - without.plain_bytes_of_row,
        )

    def _feature(self, name: str, alone: Price, company: Price) -> FeaturePrice:
        (rep,) = resolve(
            [self._representation.model_copy(update={"features": (name,)})], self._settings.feature_files
        )
        feature = rep.slots[0].feature
        needs = feature.needs(self._representation.depth)
        return FeaturePrice(
            name=name,
            level=feature.level,
            needs=needs,
            state_bytes=self.left((name,)).state_bytes - self.left(()).state_bytes,
            packet_bytes=self._load.packet_bytes(needs),
            alone=alone,
            company=company,
        )


def engine_of(
    settings: StreamsSettings, representation: RepresentationSettings, features: Names
) -> FeatureEngine:
    """Return the engine of a set of features in a representation; raises SettingsError for an unknown one."""
    return FeatureEngine(
        features,
        kind=representation.kind,
        every_s=representation.every_s,
        depth=representation.depth,
        feature_files=settings.feature_files,
        settings=settings,
    )


def needs_of(
    features: Sequence[str], settings: StreamsSettings, representation: RepresentationSettings
) -> dict[str, Extra]:
    """Return what each feature needs beyond the usual columns; raises SettingsError for an unknown one."""
    return {
        name: needed_columns(
            resolve([representation.model_copy(update={"features": (name,)})], settings.feature_files)
        )
        for name in features
    }


def all_needs(needs: Mapping[str, Extra]) -> Extra:
    """Return what all of them need together."""
    out = NO_EXTRA
    for extra in needs.values():
        out = out.with_(extra)
    return out
