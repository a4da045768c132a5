"""Which points a study consists of, and the file that says what it was made of."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from models.packet.budgets import BODIES, BUDGETS, EMBEDDED, KINDS
from models.packet.dataset import MANIFEST, SPLITS, PacketDataset
from models.packet.study.points import Key, read_json, write_json
from models.packet.training import RATES, Recipe
from schemas.errors import SettingsError

STUDY_FILE = "study.json"
MOST_SEEDS = 10
USUAL_KINDS = (*BODIES, f"mlp{EMBEDDED}", f"lstm{EMBEDDED}")
_QUICK_KINDS = ("svm", "mlp", "lstm", f"lstm{EMBEDDED}", "cnn")
_QUICK_ROWS = 2000
_QUICK_BUDGETS = (15_000, 50_000)


@dataclass(frozen=True)
class Plan:
    """What to train."""

    splits: tuple[str, ...] = ("random", "flow")
    kinds: tuple[str, ...] = USUAL_KINDS
    budgets: tuple[int, ...] = BUDGETS
    rates: tuple[float, ...] = ()
    """For every model; empty: those of ``RATES``."""
    seeds: int = 1
    recipe: Recipe = field(default_factory=Recipe)
    most_rows: int = 0
    """Packets to train on at most, in packets; 0: all."""
    one_rate: bool = False
    """Only the middle one of each model's own learning rates."""
    together: bool = False
    """Train all rates, seeds and splits of a model and budget in one program; Keras must run on JAX."""

    def keys(self) -> list[Key]:
        """Return the points, those that teach most soonest: every model at a small budget before the large ones."""
        found = [
            Key(split, kind, budget, rate, seed)
            for seed in range(1, self.seeds + 1)
            for budget in sorted(self.budgets)
            for kind in self.kinds
            for split in self.splits
            for rate in self._rates(kind)
            if kind != "svm" or budget == min(self.budgets)
        ]
        return list(dict.fromkeys(found))

    def _rates(self, kind: str) -> tuple[float, ...]:
        rates = RATES[kind.removesuffix(EMBEDDED)]
        return self.rates or (rates[1:2] if self.one_rate else rates)


def quick(plan: Plan) -> Plan:
    """Return a plan that five minutes on two cores are enough for; kinds that were asked for stay."""
    kinds = _QUICK_KINDS if plan.kinds == USUAL_KINDS else plan.kinds
    recipe = replace(plan.recipe, epochs=8, patience=3, batch=64)
    return replace(
        plan,
        kinds=kinds,
        budgets=_QUICK_BUDGETS,
        seeds=1,
        recipe=recipe,
        most_rows=_QUICK_ROWS,
        one_rate=True,
    )


def checked(plan: Plan) -> Plan:
    """Return the plan; raises SettingsError naming what there is not."""
    for what, chosen, known in (("model", plan.kinds, KINDS), ("split", plan.splits, SPLITS)):
        for name in chosen:
            if name not in known:
                raise SettingsError(f"{what} {name}: there is {', '.join(known)}")
    for rate in plan.rates:
        if not 0 < rate < 100:
            raise SettingsError(f"learning rate {rate:g}: must be over 0 and under 100")
    if plan.seeds < 1:
        raise SettingsError(f"{plan.seeds} seeds: one at least")
    return plan


def manifest_sha256(dataset: PacketDataset) -> str:
    """Return the checksum by which a study knows its data set again."""
    return hashlib.sha256((dataset.path / MANIFEST).read_bytes()).hexdigest()


def settle(folder: Path, plan: Plan, dataset: PacketDataset) -> dict[str, Any]:
    """Write what the study is made of, or check that the one begun in ``folder`` is made of the same.

    Returns:
        The study's file: data set, its checksum, recipe and Keras backend.

    Raises:
        SettingsError: points there were trained on other data or by another recipe.
    """
    study = {
        "version": 2,
        "dataset": dataset.path.resolve().name,
        "dataset_sha256": manifest_sha256(dataset),
        "classes": list(dataset.class_names),
        "recipe": asdict(plan.recipe),
        "most_rows": plan.most_rows,
    }
    path = folder / STUDY_FILE
    if path.exists():
        found = read_json(path)
        # What recipes did not have yet when it was begun was done without.
        found["recipe"] = {**asdict(Recipe()), **found.get("recipe", {})}
        for key, value in study.items():
            if found.get(key) != value and key != "dataset":
                raise SettingsError(
                    f"{path}: this study was begun with {key} {found.get(key)}, not {value}; "
                    "give the same options, or another -o"
                )
        return found
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, study)
    return study
