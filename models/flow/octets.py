"""Payload batches as rows of a tier: the octets of the packet with which a flow reaches the tier's depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.columns import Array
from schemas.features import FeatureBatch
from schemas.payloads import (
    FIRST_OCTETS,
    MASKED_OCTETS,
    PayloadBatch,
    decode_payload_batch,
    empty_columns,
)
from schemas.topics import PAYLOADS

REPRESENTATION = PAYLOADS
"""Of tiers whose rows are octets; they come on the topic of that name."""
COLUMNS = tuple(f"octet_{place}" for place in range(FIRST_OCTETS))
_OF_FLOWS = ("flow_id", "start_ns", "protocol", "ip_version")
_SIDES = ("source", "destination")


def topic_of(representation: str) -> str:
    """Return the plain name of the topic with a representation's rows."""
    return PAYLOADS if representation == REPRESENTATION else f"features.{representation}"


def warm_up() -> None:
    """Have what is compiled for payloads compiled, or loaded, before a message waits for it."""
    none = PayloadBatch("none", 0, 0, 1, 0, 0, empty_columns())
    decode_payload_batch(none.encode()).vectors()


def rows_of(batch: PayloadBatch, numbers: Sequence[int]) -> FeatureBatch:
    """Return a row for each packet of a batch that has one of these numbers in its flow; depth is the number.

    ``features`` are its octets, (rows, FIRST_OCTETS) uint8, masked and padded as a packet model has learned them.
    Columns that say nothing about a packet are left out.
    """
    columns = batch.columns
    wanted = np.flatnonzero(np.isin(columns["packet_number"], numbers))
    flow = columns["flow_index"][wanted]
    made = {name: columns[name][flow] for name in _OF_FLOWS}
    is_turned = columns["first_direction"][flow] == 1
    for what in ("address", "port"):
        ends = _turned(columns[f"{what}_a"][flow], columns[f"{what}_b"][flow], is_turned)
        made |= {f"{side}_{what}": end for side, end in zip(_SIDES, ends, strict=True)}
    made["end_ns"], made["depth"] = columns["time_ns"][wanted], columns["packet_number"][wanted]
    made["flow_end_reason"] = np.zeros(len(wanted), np.uint8)
    vectors = batch.vectors()[wanted] if len(wanted) else np.empty((0, FIRST_OCTETS), np.uint8)
    # Somebody else's probe may send more: the model has not learned from ports, so it does not see any.
    vectors[:, :MASKED_OCTETS] = 0
    sent_ns = batch.sent_time_ns
    return FeatureBatch(
        batch.probe,
        REPRESENTATION,
        batch.partition,
        COLUMNS,
        {**made, "features": vectors},
        batch.epoch,
        batch.sequence,
        # A payload goes straight from the probe to the model.
        probe_time_ns=sent_ns,
        flows_received_time_ns=sent_ns,
        flows_sent_time_ns=sent_ns,
        replayed=batch.replayed,
    )


def _turned(a: Array, b: Array, is_turned: Array) -> tuple[Array, Array]:
    """Return (source, destination) of endpoints a and b: where ``is_turned``, b is the source."""
    where = is_turned.reshape(-1, *[1] * (a.ndim - 1))
    return np.where(where, b, a), np.where(where, a, b)
