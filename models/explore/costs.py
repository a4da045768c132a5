"""What a set of features costs at a moment: summed from prices measured once, or measured as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from models.explore.rows import Rows
from models.explore.task import Moment
from schemas.packets import Extra
from streams.config import StreamsSettings
from streams.price_list import PriceMaker, all_needs, needs_of
from streams.prices import Load, Pair, read_load

LINK_GBPS = 10.0
_HOUR_S = 3600


@dataclass(frozen=True)
class Costs:
    """The price of one choice. Base, the kernel without features, is in it."""

    cpu_ns: float
    """Per packet."""
    state_bytes: float
    """Per flow."""
    storage_gb: float
    """Of an hour of a full link of LINK_GBPS."""
    decision_s: float
    """Median time from the begin of what a row tells of to the row."""


@dataclass(frozen=True)
class KindPrices:
    """Prices of the candidates in rows of one kind: [0] is the kernel without features, then each alone."""

    cpu_ns: list[float]
    state_bytes: list[int]
    record_bytes: list[float]

    def costs(self, candidates: Sequence[int], rows_per_hour: float, decision_s: float) -> Costs:
        """Return the sum of some candidates' prices."""
        chosen = [0, *(c + 1 for c in candidates)]
        return Costs(
            sum(self.cpu_ns[i] for i in chosen),
            sum(self.state_bytes[i] for i in chosen),
            sum(self.record_bytes[i] for i in chosen) * rows_per_hour / 1e9,
            decision_s,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


class Pricing:
    """Prices candidates on the captures' first packets."""

    def __init__(
        self,
        captures: Sequence[str],
        features: tuple[str, ...],
        moment: Moment,
        settings: StreamsSettings,
        packets: int,
    ) -> None:
        """Read the packets; raises InputError, SettingsError."""
        self._settings = settings.model_copy(update={"services": ()})
        needs = needs_of(features, settings, moment.representation(features))
        self._needs: Extra = all_needs(needs)
        self._captures, self._packets = captures, packets
        self._load: Load | None = None

    @property
    def load(self) -> Load:
        """Return the packets."""
        if self._load is None:
            self._load = read_load(self._captures, self._needs, self._packets)
        return self._load

    def kind(
        self,
        features: tuple[str, ...],
        moment: Moment,
        repeats: int,
        on_step: Callable[[str, int, int], None],
        stop: Callable[[], bool],
    ) -> KindPrices | None:
        """Measure each candidate alone; None if it was stopped."""
        maker = PriceMaker(self._settings, moment.representation(features), self.load)
        sets: list[tuple[str, ...]] = [(), *((name,) for name in features)]
        for done, some in enumerate(sets):
            if stop():
                return None
            maker.timed(some)
            on_step("compiled", done + 1, len(sets))
        pairs = [Pair(maker.timed(()), maker.timed(some)) for some in sets[1:]]
        base = []
        for done in range(repeats):
            for pair in pairs:
                if stop():
                    return None
                pair.measure()
            base.append(maker.timed(()).run().sum() / self.load.packets)
            on_step("measured", done + 1, repeats)
        none = maker.left(())
        added = [maker.left(some) for some in sets[1:]]
        return KindPrices(
            [float(sum(base) / len(base)), *(max(0.0, pair.price().mean) for pair in pairs)],
            [none.state_bytes, *(left.state_bytes - none.state_bytes for left in added)],
            [none.record_bytes, *(left.record_bytes - none.record_bytes for left in added)],
        )

    def whole(
        self, features: tuple[str, ...], moment: Moment, repeats: int, rows_per_hour: float, decision_s: float
    ) -> Costs:
        """Measure a choice as one kernel."""
        maker = PriceMaker(self._settings, moment.representation(features), self.load)
        timed = maker.timed(features)
        taken = [timed.run().sum() / self.load.packets for _ in range(repeats)]
        left = maker.left(features)
        return Costs(
            float(sum(taken) / repeats), left.state_bytes, left.record_bytes * rows_per_hour / 1e9, decision_s
        )

    def rows_per_hour(self, rows: Rows) -> float:
        """Return the rows of an hour at a full link, if it makes as many per packet as these captures do."""
        return rows.made / max(1, rows.packets) * self.load.link_packets_per_s(LINK_GBPS) * _HOUR_S
