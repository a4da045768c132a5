"""What a study is made of, and the file that keeps it from being gone on with otherwise."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.flow.card import DEPTHS, Method
from models.flow.octets import REPRESENTATION
from models.flow.study.data import FlowData
from models.flow.study.packet import KIND
from models.flow.study.points import Key
from models.flow.study.splits import SPLITS
from models.flow.study.train import MODELS, USUAL_MODELS, Settings
from models.packet.card import NAME_PATTERN
from models.packet.library import ready_to_publish
from models.packet.study.points import read_json, write_json
from schemas.errors import SettingsError

STUDY_FILE = "study.json"
BudgetKind = Literal["share", "latency", "cpu"]


@dataclass(frozen=True)
class Budget:
    """What the thresholds are tuned for."""

    of: BudgetKind = "share"
    """Share of flows that the fast tier hands on; latency that nine in ten flows keep, in ms; CPU per flow, in us."""
    limit: float = 0.5

    def __str__(self) -> str:
        """Return it in words."""
        if self.of == "share":
            return f"at most {self.limit:.0%} of flows handed on by the fast tier"
        if self.of == "latency":
            return f"nine in ten flows answered within {self.limit:g} ms of their first packet"
        return f"at most {self.limit:g} us of model CPU per flow"


@dataclass(frozen=True)
class Plan:
    """What to train and how to choose."""

    models: tuple[str, ...] = USUAL_MODELS
    representations: tuple[str, ...] = ("early",)
    most_depth: tuple[tuple[str, int], ...] = ()
    """Of a representation, where it is not trained at all depths."""
    depths: tuple[int, ...] = DEPTHS
    splits: int = 3
    by: str = "group"
    training: Settings = field(default_factory=Settings)
    budget: Budget = field(default_factory=Budget)
    method: Method = "per_class"
    wait_s: float = 5.0
    chain: tuple[str, ...] = ()
    """Names of the tiers to take; empty: those proposed."""
    unknown_below: float = 0.1
    name: str = "flows"
    version: str = "1"
    packet_model: Path | None = None
    """Folder of a packet model that is tried as a tier."""
    packet_depths: tuple[int, ...] = ()
    """Packets of a flow that it is asked about; empty: ``depths``."""

    def keys(self) -> list[Key]:
        """Return the trainings, split after split; a packet model is taken for trained."""
        return [
            Key(seed, representation, depth, kind)
            for seed in range(1, self.splits + 1)
            for representation, depth in self.wanted()
            for kind in ((KIND,) if representation == REPRESENTATION else self.models)
        ]

    def wanted(self) -> list[tuple[str, int]]:
        """Return representations and depths."""
        most = dict(self.most_depth)
        wanted = [
            (representation, depth)
            for representation in self.representations
            for depth in self.depths
            if depth <= most.get(representation, depth)
        ]
        octets = (self.packet_depths or self.depths) if self.packet_model is not None else ()
        return wanted + [(REPRESENTATION, depth) for depth in octets]


def checked(plan: Plan) -> Plan:
    """Return the plan; raises SettingsError naming what there is not."""
    for name in plan.models:
        if name not in MODELS:
            raise SettingsError(f"--models {name}: there is {', '.join(MODELS)}")
    if not plan.models or not plan.depths or not plan.representations:
        raise SettingsError("a study needs a model, a depth and a representation at least")
    if plan.by not in SPLITS:
        raise SettingsError(f"--split {plan.by}: there is {', '.join(SPLITS)}")
    _check_depths("--depths", plan.depths)
    if plan.packet_depths:
        _check_depths("--packet-depths", plan.packet_depths)
        if plan.packet_model is None:
            raise SettingsError("--packet-depths: of which packet model? give --packet-model")
    for text in (plan.name, plan.version):
        if not re.match(NAME_PATTERN, text):
            raise SettingsError(
                f"{text!r}: a cascade's name and version are letters, digits, dot, hyphen, underscore"
            )
    if plan.budget.of == "share" and not 0 < plan.budget.limit <= 1:
        raise SettingsError(f"--budget {plan.budget.limit:g}: a share is over 0 and at most 1")
    return plan


def _check_depths(option: str, depths: tuple[int, ...]) -> None:
    if list(depths) != sorted(set(depths)) or not 1 <= depths[0] <= depths[-1] <= 64:
        raise SettingsError(f"{option} {','.join(map(str, depths))}: rising numbers from 1 to 64")


def settle(folder: Path, plan: Plan, data: FlowData) -> dict[str, Any]:
    """Write what the trainings are made of, or check that those in ``folder`` are made of the same.

    Raises:
        SettingsError: they were made of other data or by other settings.
    """
    study: dict[str, Any] = {
        "version": 1,
        "dataset": data.name,
        "flows": data.flows,
        "classes": list(data.classes),
        "labels_sha256": hashlib.sha256(data.label.tobytes() + data.group.tobytes()).hexdigest(),
        "split": plan.by,
        "training": asdict(plan.training),
    }
    if plan.packet_model is not None:
        study["packet_model"] = ready_to_publish(plan.packet_model)[0].sha256
    path = folder / STUDY_FILE
    if not path.exists():
        write_json(path, study)
        return study
    found = read_json(path)
    for key, value in study.items():
        if found.get(key) != value:
            raise SettingsError(
                f"{path}: this study was begun with {key} {str(found.get(key))[:80]}, not {str(value)[:80]}; give "
                "the same options, or another -o"
            )
    return found
