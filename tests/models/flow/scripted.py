"""Cascades whose answers stand in the rows themselves, and batches of such rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.card import CascadeCard, Ladder, Thresholds, TierCard, Unknown, tiers_digest
from models.flow.cascade import Cascade
from models.flow.octets import COLUMNS
from models.flow.tiers import Tier
from models.flow.work import Arrived, ArrivedPayloads
from schemas.community_id import address_bytes
from schemas.features import ROW_COLUMNS, FeatureBatch
from schemas.payloads import MASKED_OCTETS, PayloadBatch
from schemas.topics import PAYLOADS
from tests.models.packet.batches import payload_batch

CLASSES = ("dns", "mail", "web")
NAMES = ("fast_class", "fast_confidence", "slow_class", "slow_confidence")
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
SURE, UNSURE = 0.99, 0.5
"""Confidences above and below the threshold of 0.9."""


class ScriptedTier(Tier):
    """Says the class and the confidence that stand in its two columns; raises at class 9."""

    def _probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if (rows[:, 0] == 9).any():
            raise ValueError("class 9")
        return _said(rows)


class ScriptedPacketTier(Tier):
    """Says the class and, in hundredths, the confidence that the first two octets behind the masked ones are."""

    def _prepared(self, rows: NDArray[Any]) -> NDArray[Any]:
        assert rows.dtype == np.uint8, "octets stay octets"
        assert not rows[:, :MASKED_OCTETS].any()
        return rows

    def _probabilities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        given = rows[:, MASKED_OCTETS : MASKED_OCTETS + 2] / np.array([1, 100])
        return _said(given.astype(np.float32))


def _said(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities in which classes, the first column, have the confidence in the second."""
    rest = (1 - rows[:, 1:2]) / (len(CLASSES) - 1)
    out: NDArray[np.float32] = np.repeat(rest, len(CLASSES), axis=1).astype(np.float32)
    out[np.arange(len(rows)), rows[:, 0].astype(int)] = rows[:, 1]
    return out


def tier_card(name: str, depth: int, representation: str = "early", **more: Any) -> TierCard:
    columns = (f"{name}_class", f"{name}_confidence")
    told = {"name": name, "kind": "decision_tree", "representation": representation, "depth": depth}
    told |= {"columns": columns, "classes": (0, 1, 2), "file": f"{name}.onnx", "sha256": "0" * 64}
    return TierCard.model_validate({**told, **more})


def packet_card(name: str, depth: int, **more: Any) -> TierCard:
    """Return the card of a packet model that is asked about packet ``depth``."""
    return tier_card(name, depth, PAYLOADS, kind="packet", columns=COLUMNS, **more)


def cascade(
    *tiers: TierCard, version: str = "1", missing: Sequence[str] = (), wait_s: float = 10.0, **more: Any
) -> Cascade:
    """Return a cascade of the tiers ``fast`` at packet 1 and ``slow`` at 3, or of those given."""
    cards = tiers or (tier_card("fast", 1), tier_card("slow", 3))
    ladder = Ladder(
        shares=(0.0, 0.5, 1.0), values=tuple((value,) * len(CLASSES) for value in (0.0, 0.9, 1.01))
    )
    many = len(cards) - 1
    told = {
        "name": "flows",
        "version": version,
        "classes": CLASSES,
        "tiers": cards,
        "thresholds": Thresholds(
            method="universal", of=tiers_digest(cards), ladders=(ladder,) * many, shares=(0.5,) * many
        ),
        "unknown": (Unknown(),) * len(cards),
        "wait_s": wait_s,
    }
    card = CascadeCard.model_validate({**told, **more})
    ready = tuple(None if tier.name in missing else _tier(tier) for tier in cards)
    problems = {i: f"{tier.name} is damaged" for i, tier in enumerate(cards) if tier.name in missing}
    return Cascade(card, ready, problems)


def _tier(card: TierCard) -> Tier:
    kind = ScriptedPacketTier if card.kind == "packet" else ScriptedTier
    return kind(card, len(CLASSES))


Row = tuple[int, int, float]
"""Flow, depth, seconds after its start."""


def batch(
    *rows: Row,
    fast: tuple[int, float] = (0, SURE),
    slow: tuple[int, float] = (2, SURE),
    representation: str = "early",
    probe: str = "gate",
    reason: int = 0,
    names: tuple[str, ...] = NAMES,
    **more: Any,
) -> FeatureBatch:
    """Return a batch of rows that all answer alike."""
    count = len(rows)
    columns = {c.name: np.zeros((count, *c.dtype.shape), dtype=c.dtype.base) for c in ROW_COLUMNS}
    columns["flow_id"][:] = np.array([flow for flow, _, _ in rows], np.uint64)
    for name, text in (("source_address", "192.0.2.1"), ("destination_address", "198.51.100.7")):
        columns[name][:] = np.frombuffer(address_bytes(text)[0], dtype=np.uint8)
    columns["source_port"][:], columns["destination_port"][:] = 40_000, 443
    columns["protocol"][:], columns["ip_version"][:] = 6, 4
    columns["depth"][:] = [depth for _, depth, _ in rows]
    columns["start_ns"][:] = columns["interval_start_ns"][:] = START_NS
    columns["end_ns"][:] = [START_NS + round(at_s * SECOND) for _, _, at_s in rows]
    columns["flow_end_reason"][:] = reason
    said = {
        "fast_class": fast[0],
        "fast_confidence": fast[1],
        "slow_class": slow[0],
        "slow_confidence": slow[1],
    }
    columns["features"] = np.tile(np.array([said.get(name, 0) for name in names], np.float32), (count, 1))
    told = {"probe_time_ns": 1000, "flows_received_time_ns": 1500, "flows_sent_time_ns": 1700}
    return FeatureBatch(probe, representation, 0, names, columns, **{**told, **more})


def payloads(*packets: tuple[int, int], said: tuple[int, float] = (2, SURE), **more: Any) -> PayloadBatch:
    """Return a batch of (flow, number) packets for which ``ScriptedPacketTier`` gives this answer."""
    sent = bytes([said[0], round(100 * said[1])])
    return payload_batch(*((flow, number, sent) for flow, number in packets), start_ns=START_NS, **more)


def arrived(*batches: FeatureBatch | PayloadBatch, partition: int = 0) -> list[Arrived | ArrivedPayloads]:
    return [
        ArrivedPayloads(one, partition, 2000)
        if isinstance(one, PayloadBatch)
        else Arrived(one, partition, 2000)
        for one in batches
    ]


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns
