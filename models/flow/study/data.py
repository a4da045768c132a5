"""Labelled flows with their features after each depth: what the study trains and tests on."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.study.splits import Part, parts_of
from models.packet.study.points import write_whole
from schemas.errors import InputError

FORMAT = 1
NEVER_US = -1.0
"""Where a flow never reached a depth."""
_HEAD = "head"


@dataclass(frozen=True)
class Rows:
    """Rows of one representation at one depth."""

    columns: tuple[str, ...]
    flows: NDArray[np.int64]
    """(rows,) which flow each row is of, rising."""
    values: NDArray[Any]
    """(rows, columns), float32 or int8; octets, uint8."""

    def take(self, chosen: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the values of the rows whose flows are chosen, (rows, columns), by a mask over all flows.

        Octets, uint8, stay what they are: as float32 they would take four times the memory.
        """
        values: NDArray[Any] = self.values[chosen[self.flows]]
        return values if values.dtype == np.uint8 else values.astype(np.float32)


@dataclass(frozen=True)
class FlowData:
    """All labelled flows of a data set."""

    name: str
    classes: tuple[str, ...]
    label: NDArray[np.int32]
    """(flows,) index into ``classes``."""
    group: NDArray[np.int64]
    """(flows,) number of what must stay on one side of a split: a capture, a setup run, a day of a service."""
    group_word: str
    """What a group is, for people."""
    reached_us: dict[int, NDArray[np.float64]]
    """By depth, (flows,): time from the first packet to the packet at that depth; NEVER_US if it never came."""
    rows: dict[tuple[str, int], Rows]
    """By representation and depth."""
    features: dict[str, tuple[str, ...]]
    """What each representation computes."""
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def flows(self) -> int:
        """Return how many flows there are."""
        return len(self.label)

    @property
    def depths(self) -> tuple[int, ...]:
        """Return the depths, rising."""
        return tuple(sorted(self.reached_us))

    def reached(self, depth: int, wait_s: float = float("inf")) -> NDArray[np.bool_]:
        """Return which flows reached a depth within a time, (flows,)."""
        at = self.reached_us[depth]
        return (at >= 0) & (at <= wait_s * 1e6)

    def covered(self, representation: str, depth: int) -> NDArray[np.bool_]:
        """Return which flows have a row, (flows,): not all of those that reach a depth have a payload there."""
        out = np.zeros(self.flows, np.bool_)
        out[self.rows[representation, depth].flows] = True
        return out

    def split(self, by: str, seed: int) -> NDArray[np.uint8]:
        """Return the part of each flow, (flows,): see ``models.flow.study.splits``."""
        return parts_of(by, self.label, self.group, seed)

    def counts(self, part: NDArray[np.uint8], which: Part) -> NDArray[np.int64]:
        """Return the flows of each class in a part."""
        return np.bincount(self.label[part == which], minlength=len(self.classes))


def choose_classes(
    labels: Sequence[str], groups: Sequence[str], least_flows: int, least_groups: int
) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes that can be learned and tested, and notes on those that cannot.

    Args:
        labels: of each flow.
        groups: of each flow.
        least_flows: a class needs so many flows.
        least_groups: and so many groups, or one part of a split would have none.

    Raises:
        InputError: fewer than two are left.
    """
    names, of_flow = np.unique(np.array(labels, dtype=object), return_inverse=True)
    groups_of = np.array(groups, dtype=object)
    kept, notes = [], []
    for number, name in enumerate(names):
        mine = of_flow == number
        flows, some = int(mine.sum()), len(set(groups_of[mine]))
        if flows < least_flows or some < least_groups:
            notes.append(f"class {name}: {flows} flows of {some} groups, too few; left out")
        else:
            kept.append(str(name))
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} class{'' if len(kept) == 1 else 'es'} with at least {least_flows} flows of {least_groups} "
            f"groups, out of {len(names)}; a cascade needs two"
        )
    return tuple(kept), notes


def save(path: Path, data: FlowData) -> None:
    """Write flow data to a file, whole or not at all."""
    head = {
        "format": FORMAT,
        "name": data.name,
        "classes": data.classes,
        "group_word": data.group_word,
        "features": data.features,
        "notes": data.notes,
        "about": data.about,
        "rows": [[name, depth, rows.columns] for (name, depth), rows in data.rows.items()],
        "depths": data.depths,
    }
    arrays: dict[str, NDArray[Any]] = {"label": data.label, "group": data.group}
    arrays[_HEAD] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    for depth, reached in data.reached_us.items():
        arrays[f"reached_{depth}"] = reached
    for (name, depth), rows in data.rows.items():
        arrays[f"{name}_{depth}_flows"], arrays[f"{name}_{depth}_values"] = rows.flows, rows.values
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    write_whole(path, out.getvalue())


def load(path: Path) -> FlowData:
    """Read what ``save`` wrote; raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as found:
            head = json.loads(found[_HEAD].tobytes())
            if head.get("format") != FORMAT:
                raise InputError(f"{path}: format {head.get('format')!r} of flow data, not {FORMAT}")
            return FlowData(
                name=head["name"],
                classes=tuple(head["classes"]),
                label=found["label"],
                group=found["group"],
                group_word=head["group_word"],
                reached_us={depth: found[f"reached_{depth}"] for depth in head["depths"]},
                rows={
                    (name, depth): Rows(
                        tuple(columns), found[f"{name}_{depth}_flows"], found[f"{name}_{depth}_values"]
                    )
                    for name, depth, columns in head["rows"]
                },
                features={name: tuple(some) for name, some in head["features"].items()},
                notes=tuple(head["notes"]),
                about=head["about"],
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: flow data that cannot be read: {' '.join(str(error).split())}") from None
