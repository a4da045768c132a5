"""Fixtures that more than one suite uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.broker.embedded import EmbeddedBroker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    """A running embedded broker without topics; tests create theirs with ``create_topic``."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real captures beside the repository; skips where it is absent."""
    found = ROOT.parent / "shared" / "data"
    if not found.is_dir():
        pytest.skip("no ../shared/data beside the repository: real captures are not tested")
    return found


@pytest.fixture(scope="session")
def demo_capture() -> Path:
    """The labelled capture that ships with the project."""
    found = ROOT / "infra" / "lab" / "data" / "demo.pcap.gz"
    if not found.is_file():
        pytest.skip(f"{found.relative_to(ROOT)} is missing: make it with the traffic lab")
    return found
