from __future__ import annotations

import pytest

from streams.config import StreamsSettings
from streams.plan import Plan
from tests.streams.made import brisk


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Short timeouts, all kinds of representations."""
    return Plan(brisk())


@pytest.fixture(scope="session")
def default_plan() -> Plan:
    """The settings as they ship."""
    return Plan(StreamsSettings())
