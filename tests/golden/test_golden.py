"""What was once published stays readable, and captures give the records they gave.

``python -m tests.golden.regenerate`` writes the files anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import NAMES, decode
from schemas.features import decode_feature_batch
from schemas.packets import decode_packet_batch
from schemas.payloads import decode_payload_batch
from tests.golden.captures import CAPTURES
from tests.golden.regenerate import (
    COLUMNS,
    HERE,
    MESSAGES,
    columns_table,
    demo,
    demo_payloads,
    demo_services,
    made,
)
from tests.schemas.messages import message, readable

GOLDEN = sorted(MESSAGES.glob("*.avro"))


def test_there_is_a_golden_message_of_each_schema() -> None:
    assert {path.stem for path in GOLDEN} >= set(NAMES)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_a_message_once_written_is_read(path: Path) -> None:
    name = path.name.split(".")[0]
    was: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    record = readable(name, decode(name, path.read_bytes()))
    # A later schema may add fields; it takes none away and changes none.
    assert {field: record.get(field) for field in was} == was
    if name == "PacketBatch":
        assert decode_packet_batch(path.read_bytes()).packets == was["packet_count"]
    elif name == "FeatureBatch":
        assert decode_feature_batch(path.read_bytes()).rows == was["row_count"]
    elif name == "PayloadBatch":
        assert decode_payload_batch(path.read_bytes()).rows == was["packet_count"]


@pytest.mark.parametrize("name", NAMES)
def test_messages_are_still_written_alike(name: str) -> None:
    assert message(name) == (MESSAGES / f"{name}.avro").read_bytes()


def test_columns_keep_their_type_and_unit() -> None:
    """A fingerprint leaves these annotations out, so nothing else would notice a change."""
    was = json.loads(COLUMNS.read_text(encoding="utf-8"))
    now = columns_table()
    for name, columns in was.items():
        for column, kind in columns.items():
            assert now[name].get(column) == kind, f"{name}.{column}"
    assert now == was, "a new column: run python -m tests.golden.regenerate"


def expected(name: str) -> tuple[dict[str, Any], list[str]]:
    head, *lines = (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(head), lines


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_made_by_hand_gives_its_records(name: str) -> None:
    told, lines = made(name)
    was, wanted = expected(name)
    assert told == was
    assert lines == wanted


def test_the_demo_capture_gives_its_records(demo_capture: Path) -> None:
    told, lines = demo()
    was, wanted = expected("demo")
    assert lines == wanted
    assert told == was


def test_the_demo_capture_gives_its_services(demo_capture: Path) -> None:
    told, lines = demo_services()
    was, wanted = expected("demo_services")
    assert lines == wanted
    assert told == was


def test_the_demo_capture_gives_its_payloads(demo_capture: Path) -> None:
    told, lines = demo_payloads()
    was, wanted = expected("demo_payloads")
    assert lines == wanted
    assert told == was
