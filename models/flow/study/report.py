"""The report of a study of cascades: Markdown with ServeFlow's figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.flow.octets import REPRESENTATION as OCTETS
from models.flow.study.choose import Chain, Judged, Model, asked_of, pareto
from models.flow.study.data import FlowData
from models.flow.study.points import BATCHES, tier_name
from models.flow.study.results import METHODS, QUANTILES, SHARES, SOON_MS, Result
from models.flow.study.run import Study
from models.flow.study.splits import Part
from models.flow.study.walk import weighted_f1
from models.packet.scores import interval
from models.packet.study.figures import Figure, Line, draw
from models.packet.study.points import write_whole

REPORT = "report.md"
COLOURS = {
    "decision_tree": "#8c564b",
    "random_forest": "#2ca02c",
    "lightgbm": "#d62728",
    "mlp": "#1f77b4",
    "cnn": "#9467bd",
    "river": "#ff7f0e",
    "packet": "#e377c2",
    "per_class": "#d62728",
    "universal": "#1f77b4",
    "oracle": "#2ca02c",
    "random": "#7f7f7f",
    "cascade": "#d62728",
    "fast": "#1f77b4",
    "slow": "#2ca02c",
}
_WORDS = {"per_class": "per class, by gain", "universal": "universal", "oracle": "oracle", "random": "random"}
_TAKEN = (
    "the packet model {} is taken as it is, `packet@N` asked about packet N, where it has a payload; flows that it "
    "learned from elsewhere may be among the test flows"
)
_LEAST_MS = 1e-3
_BEST_CHAINS = 8


def write_report(study: Study, folder: Path, found: Sequence[Result], bundle: Path) -> Path:
    """Write ``report.md`` and its figures into ``folder`` and return the file."""
    lines = [
        *_head(study),
        *_answer(study, found, bundle),
        *_methods(found),
        *_escalation(folder, found),
        *_models(folder, study),
        *_chains(study),
        *_collection(folder, study.data),
        *_latency(folder, found),
        *_rates(folder, study),
        *_failures(study),
    ]
    write_whole(folder / REPORT, ("\n".join(lines).rstrip() + "\n").encode())
    return folder / REPORT


def told(values: Sequence[float], digits: int = 3, percent: bool = False) -> str:
    """Return the mean, with half the width of its 95% interval where there are several values."""
    mean, half = interval(list(values))
    scale, unit = (100, "%") if percent else (1, "")
    text = f"{scale * mean:.{digits}f}{unit}"
    return text if half is None else f"{text} ± {scale * half:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _head(study: Study) -> list[str]:
    data, plan = study.data, study.plan
    counts = [[split.part == part for part in (Part.TRAIN, Part.TUNE, Part.TEST)] for split in study.splits]
    sizes = np.mean([[mask.sum() for mask in masks] for masks in counts], axis=0).round().astype(int)
    how = (
        f"by {data.group_word}: none is on two sides"
        if plan.by == "group"
        else "of flows at random: flows recorded together are on both sides"
    )
    taken = dict.fromkeys(point.model for point in study.points if point.model)
    notes = [*data.notes, *(_TAKEN.format(model) for model in taken)]
    return [
        f"# Study of cascades: {data.name}",
        "",
        f"{data.flows:,} flows of {len(data.classes)} classes: {', '.join(data.classes)}. "
        f"{len(study.splits)} splits {how}; about {sizes[0]:,} flows to learn from, {sizes[1]:,} on which models, "
        f"calibration and thresholds are chosen, {sizes[2]:,} to test on, which nothing is chosen by. "
        "F1 is weighted by class; a flow that has too few packets for a tier is answered by the deepest tier that it "
        "reaches, and a flow without an answer would count as wrong. After ± stands half the width of a 95% interval "
        "over the splits.",
        "",
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
    ]


def _answer(study: Study, found: Sequence[Result], bundle: Path) -> list[str]:
    chain = study.chosen.chain
    rows = [
        ["fast tier alone, F1", told([r.fast_f1 for r in found])],
        ["all flows as deep as they get, F1", told([r.slow_f1 for r in found])],
        ["**cascade, F1**", told([r.f1 for r in found])],
        ["below that", told([r.slow_f1 - r.f1 for r in found], 4)],
        ["flows that the fast tier hands on", told([r.share for r in found], 1, True)],
        [
            "fast tier's errors handed on, at half of flows",
            told([r.at_half(study.plan.method)[1] for r in found], 1, True),
        ],
        ["most that could be", told([r.ceiling for r in found], 1, True)],
        ["flows that truly gain by it", told([r.oracle_share for r in found], 1, True)],
        ["flows with an answer", told([r.answered for r in found], 1, True)],
        [
            f"answered within {SOON_MS:g} ms of the first packet",
            told([r.soon["cascade"] for r in found], 1, True),
        ],
        ["the same, all flows as deep as they get", told([r.soon["slow"] for r in found], 1, True)],
        ["CPU of the models per flow, us", told([r.cpu_us["cascade"] for r in found], 1)],
        ["the same, all flows as deep as they get", told([r.cpu_us["slow"] for r in found], 1)],
    ]
    roles = _roles(chain)
    by_split = [
        [
            str(r.seed),
            f"{r.flows:,}",
            f"{r.fast_f1:.3f}",
            f"{r.slow_f1:.3f}",
            f"{r.f1:.3f}",
            f"{r.share:.1%}",
            f"{r.at_half('per_class')[1]:.1%}",
            f"{r.at_half('universal')[1]:.1%}",
        ]
        for r in found
    ]
    return [
        "## The cascade",
        "",
        f"**{chain}**, tuned for {study.plan.budget}, thresholds {_WORDS[study.plan.method]}. "
        f"A flow waits {study.plan.wait_s:g} s at most. Made of split 1: `{bundle.parent.name}/{bundle.name}`.",
        "",
        *([" ".join(roles), ""] if roles else []),
        *_table(("on test flows", ""), rows),
        *_table(
            ("split", "test flows", "fast F1", "slow F1", "cascade F1", "handed on", "errors caught at half, per class",
             "universal"),
            by_split,
        ),
    ]  # fmt: skip


def _roles(chain: Chain) -> list[str]:
    """Return what tiers other than the first and the last are for, and which is the fast one."""
    if chain.by_hand:
        return ["Tiers chosen by hand; the curves below weigh the first tier's answers."]
    before, after = chain.models[: chain.fast], chain.models[chain.fast + 1 : -1]
    fast = tier_name(chain.models[chain.fast])
    told = [
        f"{tier_name(m)} answers only flows that have too few packets for {fast}, the fast tier."
        for m in before
    ]
    return told + [f"{tier_name(m)} answers only flows handed on that get no deeper." for m in after]


def _methods(found: Sequence[Result]) -> list[str]:
    rows = [
        [
            _WORDS[method],
            *(told([r.curves[method].f1[SHARES.index(s)] for r in found]) for s in (0.1, 0.25, 0.5)),
            told([r.at_half(method)[1] for r in found], 1, True),
        ]
        for method in METHODS
    ]
    head = ("thresholds", "F1 at 10% handed on", "at 25%", "at 50%", "errors caught at 50%")
    return ["## Methods", "", *_table(head, rows)]


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return np.mean(curves, axis=0).tolist()


def _escalation(folder: Path, found: Sequence[Result]) -> list[str]:
    shares = [100 * share for share in SHARES]
    lines = [
        Line(
            _WORDS[m],
            COLOURS[m],
            shares,
            _mean([r.curves[m].f1 for r in found]),
            dashed=m in ("oracle", "random"),
        )
        for m in METHODS
    ]
    slow = float(np.mean([r.slow_f1 for r in found]))
    lines.append(Line("all flows as deep as they get", "black", [0, 100], [slow, slow], marks=False))
    names = [
        draw(
            folder,
            Figure(
                "f1-escalated",
                "F1 by flows handed on",
                "flows handed on by the fast tier, %",
                "weighted F1",
                lines,
            ),
        )
    ]
    lines = [
        Line(
            _WORDS[m],
            COLOURS[m],
            shares,
            [100 * c for c in _mean([r.curves[m].caught for r in found])],
            dashed=m in ("oracle", "random"),
        )
        for m in METHODS
    ]
    names.append(
        draw(
            folder,
            Figure(
                "errors-caught",
                "Errors of the fast tier that are handed on",
                "flows handed on, %",
                "its errors among them, %",
                lines,
            ),
        )
    )
    return [f"![{name.split('.')[0]}]({name})\n" for name in names]


def model_scores(study: Study) -> dict[Model, tuple[list[float], list[float], float]]:
    """Return for each model its F1 over all test flows, split by split, and its median and p90 latency, in ms.

    Where a flow has too few packets for the model, the same kind's deepest model that it reaches answers.
    """
    out = {}
    for model in study.f1:
        same = sorted(
            (
                other
                for other in study.f1
                if (other[0], other[2]) == (model[0], model[2]) and other[1] <= model[1]
            ),
            key=lambda other: other[1],
        )
        f1, median, late = [], [], []
        for split in study.splits:
            asked = asked_of(
                study.data, [split.models[m] for m in same], split.part == Part.TEST, study.plan.wait_s
            )
            f1.append(weighted_f1(asked.label, asked.deepest(), len(study.data.classes)))
            time_us = np.where(asked.sees(len(same) - 1), asked.at_us[-1], asked.wait_us) + asked.row_us[-1]
            median.append(float(np.median(time_us)) / 1e3)
            late.append(float(np.quantile(time_us, 0.9)) / 1e3)
        out[model] = (f1, median, float(np.mean(late)))
    return out


def _models(folder: Path, study: Study) -> list[str]:
    scores = model_scores(study)
    lines = []
    for representation, kind in dict.fromkeys((m[0], m[2]) for m in scores):
        mine = sorted(m for m in scores if (m[0], m[2]) == (representation, kind))
        x = [max(_LEAST_MS, float(np.mean(scores[m][1]))) for m in mine]
        label = kind if representation in ("early", OCTETS) else f"{kind}, {representation}"
        y = [float(np.mean(scores[m][0])) for m in mine]
        lines.append(
            Line(label, COLOURS.get(kind, "black"), x, y, dashed=representation not in ("early", OCTETS))
        )
    figure = Figure(
        "f1-latency",
        "F1 by latency, one mark a depth",
        "median time from a flow's first packet to its answer, ms",
        "weighted F1, all test flows",
        lines,
        log_x=True,
    )
    models = list(scores)
    costs = [float(np.mean(scores[m][1])) for m in models]
    best = {
        models[i]
        for i in pareto([(c, float(np.mean(scores[m][0]))) for c, m in zip(costs, models, strict=True)])
    }
    rows = [
        [
            tier_name(model) + (" ★" if model in best else ""),
            told(scores[model][0]),
            f"{study.f1[model]:.3f}",
            f"{np.mean(scores[model][1]):.2f}",
            f"{scores[model][2]:.1f}",
            *(f"{study.splits[0].models[model].point.row_us[str(b)]:.1f}" for b in (1, 256)),
            study.splits[0].models[model].calibration.method,
        ]
        for model in models
    ]
    head = (
        "model", "F1, all test flows", "F1 on tuning flows that get so deep", "latency p50, ms", "p90", "us a row, one",
        "in 256s", "calibration",
    )  # fmt: skip
    return [
        "## Models",
        "",
        "★ stands on the Pareto front of F1 against median latency. Latency is what collecting the packets takes, and "
        "the answer itself; a flow that never has so many packets is held for as long as a flow may wait.",
        "",
        f"![F1 by latency]({draw(folder, figure)})",
        "",
        *_table(head, rows),
    ]


def _chains(study: Study) -> list[str]:
    best = sorted(study.judged, key=lambda each: -each.half_f1)[:_BEST_CHAINS]
    shown: list[Judged] = list(dict.fromkeys([study.chosen, *best]))
    rows = [
        [
            f"**{each.chain}**" if each is study.chosen else str(each.chain),
            f"{each.fast_f1:.3f}",
            f"{each.slow_f1:.3f}",
            f"{each.half_f1:.3f}",
            f"{each.caught:.1%}",
            f"{each.latency_ms:.2f}",
            f"{each.cpu_us:.1f}",
            "yes" if each.reaches else "no",
        ]
        for each in shown
    ]
    head = (
        "tiers",
        "fast F1",
        "slow F1",
        "F1 with 47% handed on",
        "errors caught at half",
        "latency p50, ms",
        "CPU us a flow",
        "near enough",
    )
    return [
        "## Tiers that were weighed",
        "",
        f"{len(study.judged)} chains, judged on the tuning flows with universal thresholds. Near enough: F1 within "
        "0.005 of all flows on the slow tier, and nine in ten of the errors caught, or nine tenths of those that "
        "half of the flows can hold. Of those, the soonest of the best is taken.",
        "",
        *_table(head, rows),
    ]


def _collection(folder: Path, data: FlowData) -> list[str]:
    lines, rows = [], []
    palette = ("#1f77b4", "#2ca02c", "#ff7f0e", "#d62728", "#9467bd", "#8c564b")
    for number, depth in enumerate(d for d in data.depths if d > 1):
        at = np.sort(data.reached_us[depth][data.reached_us[depth] >= 0]) / 1e3
        if not len(at):
            continue
        x = np.quantile(at, np.linspace(0, 1, 101))
        share = 100 * len(at) / data.flows
        lines.append(
            Line(
                f"{depth} packets",
                palette[number % len(palette)],
                np.maximum(x, _LEAST_MS).tolist(),
                (np.linspace(0, 1, 101) * share).tolist(),
                marks=False,
            )
        )
        quantiles = np.quantile(at, QUANTILES)
        rows.append([str(depth), f"{share:.1f}%", *(f"{q:.1f}" for q in quantiles)])
    if not lines:
        return []
    figure = Figure(
        "collection",
        "Time until a flow has its packets",
        "ms after its first packet",
        "flows that have them, %",
        lines,
        log_x=True,
    )
    return [
        "## Collecting packets",
        "",
        f"![collection time]({draw(folder, figure)})",
        "",
        *_table(("packets", "flows that reach them", "p50, ms", "p90", "p99"), rows),
    ]


def _latency(folder: Path, found: Sequence[Result]) -> list[str]:
    percent = np.linspace(0, 100, 101).tolist()
    words = {"cascade": "cascade", "fast": "all on the fast tier", "slow": "all flows as deep as they get"}
    lines = [
        Line(
            words[name],
            COLOURS[name],
            [max(_LEAST_MS, x) for x in _mean([r.cdf_ms[name] for r in found])],
            percent,
            marks=False,
        )
        for name in words
    ]
    figure = Figure(
        "latency",
        "Time from a flow's first packet to its answer",
        "ms",
        "flows answered, %",
        lines,
        log_x=True,
    )
    rows = [
        [word, *(f"{x:.2f}" for x in _mean([r.latency_ms[name] for r in found]))]
        for name, word in words.items()
    ]
    return [
        "## Latency",
        "",
        "Collecting and answering, without a broker; `flowgauge bench serve` measures the whole way.",
        "",
        f"![latency]({draw(folder, figure)})",
        "",
        *_table(("", "p50, ms", "p90", "p99"), rows),
    ]


def _rates(folder: Path, study: Study) -> list[str]:
    chain: Chain = study.chosen.chain
    lines, rows = [], []
    for model in chain.models:
        costs = [split.models[model].point.row_us for split in study.splits]
        rate = [float(np.median([1e6 / cost[str(b)] for cost in costs])) for b in BATCHES]
        lines.append(
            Line(tier_name(model), COLOURS.get(model[2], "black"), list(BATCHES), rate, dashed=model[1] > 1)
        )
        rows.append([tier_name(model), *(f"{x:,.0f}" for x in rate)])
    figure = Figure(
        "service-rate",
        "Flows a second on one core",
        "rows scored at once",
        "flows/s",
        lines,
        log_x=True,
        log_y=True,
    )
    return [
        "## Service rate",
        "",
        "Of the models alone, one thread of ONNX Runtime on the machine of the study.",
        "",
        f"![service rate]({draw(folder, figure)})",
        "",
        *_table(("flows/s", *(f"{b} at once" for b in BATCHES)), rows),
    ]


def _failures(study: Study) -> list[str]:
    failed = [f"- {point.key}: {point.failure}" for point in study.points if point.failure]
    noted = [f"- {point.key}: {point.note}" for point in study.points if point.note]
    lines = ["## Refused", "", *failed, ""] if failed else []
    return lines + (["## Trained again", "", *noted, ""] if noted else [])
