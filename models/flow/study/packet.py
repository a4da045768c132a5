"""A packet model in a study of cascades: its rows out of captures, and itself as a tier among the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.flow.octets import COLUMNS, REPRESENTATION, rows_of
from models.flow.study.data import FlowData
from models.flow.study.splits import Part
from models.flow.study.train import LEAST_ROWS, TooFew, Trained
from models.flow.study.watch import NoBetterThanMajority, log_loss, majority_share
from models.packet.build import PROBE
from models.packet.card import MODEL_FILE
from models.packet.library import ready_to_publish
from models.packet.runtime import PacketModel, open_model
from producers.config import PayloadSettings
from producers.followed import FlowRules
from producers.payloads.stream import PayloadStream
from producers.sources.capture import open_capture
from schemas.errors import InputError
from schemas.features import FeatureBatch

KIND = "packet"
_MOST_LEARNED = 1024
"""Flows that others learn from on which its loss is told; the model learned elsewhere."""


def payload_rows(path: str, numbers: Sequence[int], rules: FlowRules) -> Iterator[FeatureBatch]:
    """Yield the rows that packets with these numbers are when a probe sends the payloads of a capture.

    Args:
        path: of the capture.
        numbers: of packets in their flow; up to the greatest, the probe sends all that have a payload.
        rules: when flows end.

    Raises:
        InputError: the capture cannot be read.
    """
    found: list[FeatureBatch] = []
    settings = PayloadSettings(mode="first", first_packets=max(numbers))
    # Rows are copied out at once: a batch's columns hold until the next one.
    stream = PayloadStream(
        PROBE, settings, rules, 1, 0, lambda batch: found.append(rows_of(batch, numbers)), replayed=True
    )
    with open_capture(path) as capture:
        for block in capture.blocks(tap=stream.sampler):
            stream.add("", block, (0, block.packets), 0, 0)
            yield from found
            found.clear()
    stream.flush()
    yield from found


def checked_model(folder: Path, data: FlowData) -> PacketModel:
    """Return a packet model that can answer flows of ``data``.

    Raises:
        ModelError: it cannot be used.
        InputError: it knows a class that the flows are not of.
    """
    model = open_model(folder, sha256=ready_to_publish(folder)[0].sha256)
    if strange := [name for name in model.classes if name not in data.classes]:
        raise InputError(
            f"{folder}: the packet model knows the class {strange[0]}, of which there are no flows, or too few; "
            f"there is {', '.join(data.classes)}"
        )
    return model


def take_model(folder: Path, data: FlowData, part: NDArray[np.uint8], depth: int) -> Trained:
    """Return a packet model as a tier that is asked about packet ``depth``; it is taken as it is.

    Raises:
        ModelError, InputError: as ``checked_model``.
        TooFew: too few flows have a payload in that packet.
        NoBetterThanMajority: it is not worth having.
    """
    model = checked_model(folder, data)
    rows = data.rows[REPRESENTATION, depth]
    number = {name: i for i, name in enumerate(data.classes)}
    classes = tuple(number[name] for name in model.classes)
    label = data.label[rows.flows]
    learned, tuning = (part[rows.flows] == which for which in (Part.TRAIN, Part.TUNE))
    if learned.sum() < LEAST_ROWS or not tuning.any():
        raise TooFew(f"{len(rows.flows)} flows have a payload in packet {depth}: too few")
    said = model.predict(rows.values[tuning])
    right = float((np.array(classes)[said.argmax(axis=1)] == label[tuning]).mean())
    often = majority_share(label[learned], label[tuning])
    if right < often:
        raise NoBetterThanMajority(
            f"right on {right:.1%} of {tuning.sum()} flows, always saying the most frequent class on {often:.1%}"
        )
    some = np.flatnonzero(learned)[:_MOST_LEARNED]
    return Trained(
        data=(folder / MODEL_FILE).read_bytes(),
        ending="onnx",
        columns=COLUMNS,
        classes=classes,
        train_loss=_loss(model.predict(rows.values[some]), classes, label[some]),
        tune_loss=_loss(said, classes, label[tuning]),
        note="",
        rows=0,
        model=model.card.title,
    )


def _loss(said: NDArray[np.float32], classes: Sequence[int], label: NDArray[np.int32]) -> float:
    """Return the mean of -log p over the flows of classes that the model knows; 0 without such."""
    at = {number: i for i, number in enumerate(classes)}
    place = np.array([at.get(number, -1) for number in label.tolist()], np.int32)
    known = place >= 0
    return log_loss(said[known], place[known]) if known.any() else 0.0
