"""The chosen chain as a cascade on disk, with its thresholds by every method, and settings that serve it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow import unknown
from models.flow.bundle import write_cascade
from models.flow.card import (
    CascadeCard,
    Histogram,
    Method,
    Reference,
    Thresholds,
    TierCard,
    Unknown,
    tiers_digest,
)
from models.flow.octets import REPRESENTATION as OCTETS
from models.flow.study.choose import Model1
from models.flow.study.data import FlowData
from models.flow.study.packet import KIND
from models.flow.study.plan import Plan
from models.flow.study.points import read_model
from models.flow.study.results import Result, settle_shares, summary, tuned_of
from models.flow.study.run import POINTS, Split, Study
from models.flow.study.splits import Part
from models.flow.study.tune import within
from models.flow.study.walk import Asked, walk
from models.packet.study.points import write_whole

BINS = 10
_MOST_INPUTS = 64
_METHODS: tuple[Method, Method] = ("universal", "per_class")
_EDGES = tuple(round(edge, 2) for edge in np.linspace(0, 1, BINS + 1)[1:-1].tolist())


def write(study: Study, folder: Path, found: Sequence[Result]) -> Path:
    """Write the cascade of the study's first split into ``folder`` and return its own folder.

    Beside it come ``thresholds-METHOD.json`` for each method and ``cascade.toml``, settings that serve it.

    Raises:
        CascadeError: another cascade of that name and version is there.
    """
    split = study.splits[0]
    models = [split.models[model] for model in study.chosen.chain.models]
    tiers = tuple(_tier(model) for model in models)
    thresholds = {method: _thresholds(study, split, tiers, method) for method in _METHODS}
    files = {
        tier.file: read_model(folder / POINTS, model.point) for tier, model in zip(tiers, models, strict=True)
    }
    rows = [_rows(study.data, split.part, model) for model in models]
    held = {
        key: value
        for key, value in summary(study, found).items()
        if key not in ("tiers", "classes", "by_split")
    }
    card = CascadeCard(
        name=study.plan.name,
        version=study.plan.version,
        classes=study.data.classes,
        tiers=tiers,
        thresholds=thresholds[study.plan.method],
        unknown=tuple(_unknown(model, *each, study.plan) for model, each in zip(models, rows, strict=True)),
        reference=_references(study, split, thresholds[study.plan.method], rows),
        wait_s=study.plan.wait_s,
        data={"name": study.data.name, "flows": study.data.flows, **study.data.about},
        split={"by": study.plan.by, "groups": study.data.group_word, "seed": split.seed},
        scores=held,
        cost={"cpu_us_per_flow": held["cpu_us_per_flow"], "latency_ms": held["latency_ms"]},
        created=_created(folder),
    )
    made = write_cascade(folder, card, files)
    for method, each in thresholds.items():
        write_whole(folder / f"thresholds-{method}.json", (each.model_dump_json(indent=1) + "\n").encode())
    write_whole(folder / "cascade.toml", settings_toml(study.data, card).encode())
    return made


def _created(folder: Path) -> str:
    """Return when the last model was trained: the same study makes the same cascade."""
    newest = max(path.stat().st_mtime for path in (folder / POINTS).glob("*.json"))
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")


def _tier(model: Model1) -> TierCard:
    point = model.point
    return point.tier(
        calibration=model.calibration,
        scores={
            "train_loss": point.train_loss,
            "tune_loss": point.tune_loss,
            "rows": point.rows,
            "note": point.note,
            **({"model": point.model} if point.model else {}),
        },
    )


def _unknown(model: Model1, train: NDArray[Any], tune: NDArray[Any], plan: Plan) -> Unknown:
    if model.point.key.kind == KIND:  # octets have no centre from which another one would be far
        return Unknown(confidence_floor=plan.unknown_below)
    return unknown.fit(train, tune, plan.unknown_below)


def _thresholds(study: Study, split: Split, tiers: tuple[TierCard, ...], method: Method) -> Thresholds:
    asked, tuned = tuned_of(study, split, method)
    plan, many = study.plan, len(study.data.classes)
    shares = settle_shares(asked, tuned, study.chosen.chain, plan.budget, many)
    _, used = within(asked, tuned, shares, plan.budget.limit, plan.budget.of, study.chosen.chain.fast)
    return Thresholds(
        method=method,
        of=tiers_digest(tiers),
        ladders=tuned.ladders,
        shares=shares,
        budget={"of": plan.budget.of, "limit": plan.budget.limit, "used": used, "flows": len(asked.label)},
    )


def _rows(data: FlowData, part: NDArray[np.uint8], model: Model1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows that a tier learned from, and those it was tuned on, in its columns."""
    key = model.point.key
    rows = data.rows[key.representation, key.depth]
    at = {name: i for i, name in enumerate(rows.columns)}
    places = [at[name] for name in model.point.columns]
    return rows.take(part == Part.TRAIN)[:, places], rows.take(part == Part.TUNE)[:, places]


def _references(
    study: Study,
    split: Split,
    thresholds: Thresholds,
    rows: Sequence[tuple[NDArray[Any], NDArray[Any]]],
) -> tuple[Reference, ...]:
    """Return for each tier what the TUNE flows that come to it look like."""
    asked, _ = tuned_of(study, split, thresholds.method)
    values = [ladder.at(share) for ladder, share in zip(thresholds.ladders, thresholds.shares, strict=True)]
    done = walk(asked, values)
    out = []
    tuning = np.flatnonzero(split.part == Part.TUNE)
    for tier, model in enumerate(study.chosen.chain.models):
        comes = asked.sees(tier) & (done.escalated[tier - 1] if tier else np.ones(len(tuning), np.bool_))
        representation, depth, kind = model
        flows = study.data.rows[representation, depth].flows
        has_row = np.isin(flows, tuning)
        here = comes[np.searchsorted(tuning, flows[has_row])]
        # Of octets no single one tells whether traffic is another now.
        columns = () if kind == KIND else split.models[model].point.columns
        out.append(_reference(rows[tier][1][here], columns, asked, tier, comes, study.data))
    return tuple(out)


def _reference(
    rows: NDArray[Any],
    columns: tuple[str, ...],
    asked: Asked,
    tier: int,
    comes: NDArray[np.bool_],
    data: FlowData,
) -> Reference:
    if not len(rows):
        return Reference()
    inputs = [_histogram(name, rows[:, i]) for i, name in enumerate(columns[:_MOST_INPUTS])]
    answers = np.bincount(asked.answer[tier][comes], minlength=len(data.classes)) / comes.sum()
    return Reference(
        inputs=tuple(found for found in inputs if found is not None),
        confidence=_binned("confidence", asked.confidence[tier][comes], _EDGES),
        answers=tuple(answers.tolist()),
    )


def _histogram(name: str, values: NDArray[np.float32]) -> Histogram | None:
    """Return the values in about as many bins of equal share, None where all are the same."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    edges = edges[edges > values.min()]
    return _binned(name, values, tuple(edges.astype(float).tolist())) if len(edges) else None


def _binned(name: str, values: NDArray[np.float32], edges: tuple[float, ...]) -> Histogram:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Histogram(name=name, edges=edges, shares=tuple((counts / len(values)).tolist()))


def settings_toml(data: FlowData, card: CascadeCard) -> str:
    """Return settings by which the flows agent makes, and the probe sends, the rows that the tiers take."""
    lines = [
        f"# Serves the cascade {card.title}: {' → '.join(tier.name for tier in card.tiers)}.",
        "# Its representations; add those that other models need.",
        "",
    ]
    octets = [tier.depth for tier in card.tiers if tier.representation == OCTETS]
    if octets:
        lines += [
            "# For probes and replays.",
            "[payloads]",
            'mode = "first"',
            f"first_packets = {max(octets)}",
            "",
        ]
    # Of a flow that ends before a packet whose payload is waited for, a row of features tells.
    ends = {card.tiers[0].representation: octets}
    for name in dict.fromkeys(tier.representation for tier in card.tiers):
        if name == OCTETS:
            continue
        depths = {tier.depth for tier in card.tiers if tier.representation == name}
        depths |= {depth for depth in ends.get(name, ()) if depth > max(depths)}
        lines += [
            "[[streams.representations]]",
            f'name = "{name}"',
            'kind = "early"',
            f"features = {_array(data.features[name])}",
            f"depths = {sorted(depths)}",
            "ends = true",
            "",
        ]
    lines += ["[cascade]", f'name = "{card.name}"', ""]
    return "\n".join(lines)


def _array(values: Sequence[Any]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
