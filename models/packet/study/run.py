"""Trains the points of a plan that are not finished yet; each is kept as soon as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from models.packet.budgets import Topology, solve
from models.packet.dataset import PacketDataset
from models.packet.study.plan import Plan
from models.packet.study.points import Key, Point, point_of, read_point, write_point
from models.packet.training import DivergedError, Interrupted, Part, parts, train

POINTS = "points"
Told = Callable[[Key, int, int], None]
"""Told the point in work, the points finished and the epochs of this one."""
_Sets = tuple[Part, Part, Part]


def run(
    dataset: PacketDataset, folder: Path, plan: Plan, stop: Callable[[], bool], told: Told
) -> list[Point] | None:
    """Train what is missing and return all points of the study; None if ``stop`` ended it before.

    A study may be trained plan by plan, such as each kind at its own rates: what ``folder`` has from before counts.
    """
    points = folder / POINTS
    points.mkdir(parents=True, exist_ok=True)
    keys = plan.keys()
    # Everything that cannot be trained is found before the first hour of training, not after it.
    classes = len(dataset.class_names)
    topologies = {(key.kind, key.budget): solve(key.kind, key.budget, classes) for key in keys}
    loaded = {split: _limited(parts(dataset, split), plan.most_rows) for split in plan.splits}
    missing = [key for key in keys if not (points / f"{key.name}.json").exists()]
    for some in _groups(missing, plan.together):
        first = some[0]
        topology, telling = topologies[first.kind, first.budget], _telling(told, first, keys.index(first))
        try:
            if plan.together and first.kind != "svm":
                _together(points, some, topology, loaded, plan, stop, telling)
            else:
                _one(points, first, topology, loaded[first.split], plan, stop, telling)
        except Interrupted:
            return None
    return sorted((read_point(path) for path in points.glob("*.json")), key=lambda point: point.key)


def _groups(keys: list[Key], together: bool) -> list[list[Key]]:
    """Return what is trained at once: the points of one model and budget, or each alone."""
    groups: dict[tuple[str, int] | Key, list[Key]] = {}
    for key in keys:
        groups.setdefault((key.kind, key.budget) if together and key.kind != "svm" else key, []).append(key)
    return list(groups.values())


def _together(
    folder: Path,
    keys: list[Key],
    topology: Topology,
    loaded: dict[str, _Sets],
    plan: Plan,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> None:
    from models.packet.together import Member, train_together

    members = [Member(key.split, key.rate, key.seed) for key in keys]
    for key, made in zip(
        keys, train_together(topology, loaded, members, plan.recipe, stop, progress), strict=True
    ):
        if isinstance(made, DivergedError):
            write_point(folder, Point(key, topology, 0, {}, str(made)), None)
        else:
            write_point(folder, point_of(key, topology, made), made.weights)


def _telling(told: Told, key: Key, finished: int) -> Callable[[int], None]:
    told(key, finished, 0)
    return lambda epoch: told(key, finished, epoch)


def _one(
    folder: Path,
    key: Key,
    topology: Topology,
    sets: _Sets,
    plan: Plan,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> None:
    if stop():
        raise Interrupted
    try:
        trained = train(topology, sets, key.rate, key.seed, plan.recipe, stop, progress)
    except DivergedError as error:
        write_point(folder, Point(key, topology, 0, {}, str(error)), None)
        return
    write_point(folder, point_of(key, topology, trained), trained.weights)


def _limited(sets: _Sets, most_rows: int) -> _Sets:
    """Return the sets with ``most_rows`` packets to train on at most, evenly taken; validation in proportion."""
    if not most_rows or len(sets[0].classes) <= most_rows:
        return sets
    share = most_rows / len(sets[0].classes)
    return tuple(_thinned(part, share) for part in sets)  # type: ignore[return-value]


def _thinned(part: Part, share: float) -> Part:
    # Rows of a class stand together: each class keeps its share, and one packet at least.
    chosen: list[int] = []
    for number in np.unique(part.classes):
        rows = np.flatnonzero(part.classes == number)
        chosen.extend(rows[np.linspace(0, len(rows) - 1, max(1, round(share * len(rows)))).astype(int)])
    return part.take(np.array(sorted(chosen)))


def best_rates(points: Iterable[Point]) -> dict[tuple[str, str, int], list[Point]]:
    """Return, by (split, kind, budget), the points of the rate with the best mean accuracy on validation.

    The test packets have no say in the choice.
    """
    by_rate: dict[tuple[str, str, int], dict[float, list[Point]]] = {}
    for point in points:
        if point.failure is None:
            place = (point.key.split, point.key.kind, point.key.budget)
            by_rate.setdefault(place, {}).setdefault(point.key.rate, []).append(point)
    return {
        place: max(
            rates.values(), key=lambda some: sum(p.scores["validation"].accuracy for p in some) / len(some)
        )
        for place, rates in sorted(by_rate.items())
    }
