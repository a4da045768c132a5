"""Fixtures that more than one suite uses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from infra.broker.embedded import EmbeddedBroker
from schemas.kernel_cache import use_kernel_cache

use_kernel_cache()  # before any test module imports Numba

# A shell that runs this in the background has SIGINT ignored, which children would inherit; tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine, and the compiler's cache, than about the code.
hypothesis.settings.register_profile("flowgauge", deadline=None)
hypothesis.settings.load_profile("flowgauge")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the models of tests out of the home directory; workers that a test starts inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


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
