"""A broker started by hand, and the commands with their defaults, agree."""

from __future__ import annotations

from infra.broker.__main__ import _parser
from producers.config import BusSettings


def test_the_topics_are_split_as_the_settings_ask_for() -> None:
    for kind in ("embedded", "kafka"):
        assert _parser().parse_args([kind]).partitions == BusSettings().partitions
