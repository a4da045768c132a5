"""Flows made for tests of the study: three classes, of which two are told apart only by packet 3."""

from __future__ import annotations

import numpy as np

from models.flow.study.data import NEVER_US, FlowData, Rows

CLASSES = ("dns", "mail", "web")
DEPTHS = (1, 3)


def flow_data(flows: int = 900, seed: int = 1, groups: int = 30, short: float = 0.2) -> FlowData:
    """Return flows; a share ``short`` of them never has a third packet."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(CLASSES), flows).astype(np.int32)
    first = np.where(label == 0, 60.0, 1000.0) + 10 * label + rng.integers(-8, 9, flows)
    is_long = rng.random(flows) >= short
    mine = np.flatnonzero(is_long)
    third = 100.0 + 500 * label[mine] + rng.integers(-20, 21, len(mine))
    at_us = np.full(flows, NEVER_US)
    at_us[mine] = rng.lognormal(8, 2, len(mine))
    constant = np.ones(flows)
    return FlowData(
        name="made",
        classes=CLASSES,
        label=label,
        group=rng.integers(0, groups, flows) + 100 * label,
        group_word="capture",
        reached_us={1: np.zeros(flows), 3: at_us},
        rows={
            ("early", 1): Rows(
                ("octets_1", "constant"),
                np.arange(flows),
                np.stack([first, constant], axis=1).astype(np.float32),
            ),
            ("early", 3): Rows(
                ("octets_1", "octets_3", "constant"),
                mine,
                np.stack([first[mine], third, constant[mine]], axis=1).astype(np.float32),
            ),
        },
        features={"early": ("packet_sequence",)},
    )
