from __future__ import annotations

import re

from schemas.codec import NAMES
from schemas.topics import BY_NAME, LABELS, PACKETS, TELEMETRY_COST, TOPICS


def test_every_topic_has_a_schema_a_doc_and_a_name_kafka_takes() -> None:
    for topic in TOPICS:
        assert topic.schema in NAMES
        assert topic.doc
        assert re.fullmatch(r"[a-z][a-z.-]{0,100}", topic.name)
        assert all(isinstance(v, str) for v in topic.config.values())
    assert len(BY_NAME) == len(TOPICS)
    # Kafka's metrics cannot tell a dot from an underscore.
    assert len({t.name.replace(".", "_") for t in TOPICS}) == len(TOPICS)


def test_what_is_joined_by_flow_is_split_alike() -> None:
    assert {t.partitions(12) for t in TOPICS if t.by_flow} == {12}
    assert BY_NAME[PACKETS].by_flow
    assert BY_NAME[LABELS].by_flow
    assert BY_NAME[TELEMETRY_COST].partitions(12) == 1


def test_every_schema_has_a_topic() -> None:
    assert {t.schema for t in TOPICS} == set(NAMES)
