"""Which classes a data set holds, and how many packets of each flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packet.splits import smallest_part
from schemas.errors import InputError, SettingsError

TOP_BY = ("groups", "flows", "packets")
"""What the largest classes can be chosen by."""


@dataclass(frozen=True)
class ClassRules:
    """Which of the labels become classes."""

    names: tuple[str, ...] = ()
    """These, and no others; none: all that fit."""
    leave_out: tuple[str, ...] = ()
    top: int | None = None
    """Only so many: those with most of what ``top_by`` says, then with most of the others."""
    top_by: str = "groups"
    """``groups`` (of independent captures), ``flows`` or ``packets``."""
    min_packets: int = 3
    """A class needs one packet for each of train, validation and test."""
    min_flows: int = 1
    min_groups: int = 1
    min_part: int = 0
    """Packets in each of train, validation and test where no flow, and no group of captures, is divided."""


@dataclass(frozen=True)
class Candidate:
    """A label, and what there is of it."""

    name: str
    label: int
    packets: int
    flows: int
    captures: int
    groups: int
    taken: int
    """Packets to take of all flows."""
    part: int
    """Packets that the smallest of train, validation and test can get if no flow and no group is divided."""
    largest_flow: int
    """Packets taken of one flow at most, and of one group."""
    largest_group: int


def candidates(
    labels: tuple[str, ...],
    flow_label: NDArray[np.int64],
    flow_packets: NDArray[np.int64],
    flow_source: NDArray[np.int64],
    source_group: NDArray[np.int64],
    per_class: int,
    per_flow: int | None = None,
) -> list[Candidate]:
    """Return what there is of each label; only flows with packets to take count.

    Args:
        labels: their names.
        flow_label: each flow's label.
        flow_packets: packets of each flow that could be taken.
        flow_source: each flow's capture.
        source_group: each capture's group.
        per_class: most packets to take of a class.
        per_flow: most packets to take of a flow; None: as many as ``per_class`` allows.
    """
    found = []
    for number, name in enumerate(labels):
        flows = np.flatnonzero((flow_label == number) & (flow_packets > 0))
        sources = np.unique(flow_source[flows])
        taken = quotas(flow_packets[flows], per_class, per_flow)
        in_groups = np.bincount(source_group[flow_source[flows]], weights=taken).astype(np.int64)
        in_groups = in_groups[in_groups > 0]
        found.append(
            Candidate(
                name,
                number,
                int(flow_packets[flows].sum()),
                len(flows),
                len(sources),
                len(np.unique(source_group[sources])),
                int(taken.sum()),
                min(smallest_part(taken), smallest_part(in_groups)),
                int(taken.max(initial=0)),
                int(in_groups.max(initial=0)),
            )
        )
    return found


def choose_classes(found: list[Candidate], rules: ClassRules) -> tuple[list[Candidate], list[str]]:
    """Return the classes by name, and a line about each that was asked for and left out, or about all.

    Raises:
        InputError: fewer than two classes are left, or one that was asked for has no packet.
        SettingsError: ``top_by`` is none of ``TOP_BY``.
    """
    if rules.top_by not in TOP_BY:
        raise SettingsError(f"most {rules.top_by}: there is {', '.join(TOP_BY)}")
    by_name = {candidate.name: candidate for candidate in found}
    for name in rules.names:
        if name not in by_name or not by_name[name].packets:
            there = ", ".join(sorted(c.name for c in found if c.packets)[:20])
            raise InputError(
                f"class {name}: no packet of the captures has that label; there is {there or 'none'}"
            )
    asked = [by_name[name] for name in rules.names] if rules.names else found
    asked = [candidate for candidate in asked if candidate.packets and candidate.name not in rules.leave_out]
    kept = [candidate for candidate in asked if not _lacks(candidate, rules)]
    out = sorted((c for c in asked if _lacks(c, rules)), key=lambda c: (-c.packets, c.name))
    notes = [f"class {candidate.name} is left out: {_lacks(candidate, rules)}" for candidate in out]
    if not rules.names and len(notes) > 1:
        notes = [f"{len(out)} labels have too little to be a class; the largest: {notes[0]}"]
    if rules.top is not None:
        kept.sort(key=lambda c: (-getattr(c, rules.top_by), -c.groups, -c.flows, -c.packets, c.name))
        kept = kept[: rules.top]
    if len(kept) < 2:
        what = f"only {kept[0].name}" if kept else "none"
        why = f" ({'; '.join(notes[:3])})" if notes else ""
        raise InputError(f"a data set needs two classes, and there is {what}{why}")
    return sorted(kept, key=lambda c: c.name), notes


def _lacks(candidate: Candidate, rules: ClassRules) -> str:
    wanted: dict[str, tuple[int, int]] = {
        "packets": (candidate.packets, rules.min_packets),
        "flows": (candidate.flows, rules.min_flows),
        "independent captures": (candidate.groups, rules.min_groups),
        "packets for a part without dividing flows and captures": (candidate.part, rules.min_part),
    }
    return ", ".join(f"{has} {what}, not {least}" for what, (has, least) in wanted.items() if has < least)


def quotas(packets: NDArray[np.int64], most: int, per_flow: int | None = None) -> NDArray[np.int64]:
    """Return how many packets to take of each flow of a class, at most ``most`` in all and ``per_flow`` of one.

    All flows give as many as the smallest of them can, and so on: no flow gives more than a level that is the
    same for all, so that an elephant does not fill the class.
    """
    packets = np.minimum(packets, most if per_flow is None else per_flow)
    if int(packets.sum()) <= most:
        return packets
    low, high = 0, int(packets.max())
    while low < high:
        level = (low + high + 1) // 2
        if int(np.minimum(packets, level).sum()) <= most:
            low = level
        else:
            high = level - 1
    out = np.minimum(packets, low)
    # What is left over goes to the first flows that have more; their order is that of their ids, which is random.
    more = np.flatnonzero(packets > low)[: most - int(out.sum())]
    out[more] += 1
    return out


def counts_of(candidate: Candidate) -> dict[str, Any]:
    """Return a class's numbers for the manifest."""
    return {
        "packets_found": candidate.packets,
        "flows_found": candidate.flows,
        "captures": candidate.captures,
        "groups": candidate.groups,
        "largest_flow": candidate.largest_flow,
        "largest_group": candidate.largest_group,
    }
