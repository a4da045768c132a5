"""Where a batch of a probe comes from and belongs: the fields that packet and payload batches begin with."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter, itemgetter
from typing import Any

from schemas.errors import CodecError

FIELDS = (
    "probe",
    "observation_point",
    "epoch",
    "partition",
    "partitions",
    "sequence",
    "end_of_stream",
    "replayed",
    "sent_time_ns",
)
_of_batch, _of_record = attrgetter(*FIELDS), itemgetter(*FIELDS)


def place_of(batch: object) -> dict[str, Any]:
    """Return the fields of a batch for its record."""
    return dict(zip(FIELDS, _of_batch(batch), strict=True))


def checked_place(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a decoded record for its batch.

    Raises:
        CodecError: no probe, or a partition or sequence number that cannot be.
    """
    if not record["probe"]:
        raise CodecError("a batch without the name of its probe")
    if not 0 <= record["partition"] < record["partitions"] or record["sequence"] < 0:
        raise CodecError(
            f"partition {record['partition']} of {record['partitions']}, sequence {record['sequence']}"
        )
    return dict(zip(FIELDS, _of_record(record), strict=True))
