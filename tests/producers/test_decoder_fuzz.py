"""Hostile captures: whatever the bytes are, the decoder ends, stays inside them and counts everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.decoder.link import LINK_TYPES
from schemas.errors import InputError
from tests.producers.frames import Decoded, Record, decode_file, mixed_records, pcap, pcapng
from tests.producers.test_decoder import LINKS, fragments4, fragments6
from tests.producers.test_pcap import interfaces_of_all_kinds

ROOT = Path(__file__).resolve().parents[2]
SEEDS = [
    pcap(mixed_records(12)),
    pcap(mixed_records(12), order=">", nanoseconds=True),
    pcapng(mixed_records(12)),
    pcapng(mixed_records(12), order=">"),
    interfaces_of_all_kinds(),
    pcap([Record(frame) for frame in fragments4() + fragments6()]),
    *(pcap([Record(frame)] * 3, link_type) for link_type, frame in LINKS.values()),
]


def decode_anything(path: Path) -> Decoded | str:
    """Return what a capture decodes to, or the error; the size of chunks makes no difference."""
    results: list[Decoded | str] = []
    for chunk_octets in (512, 1 << 20):
        try:
            results.append(decode_file(path, max_packets=50, chunk_octets=chunk_octets))
        except InputError as error:
            results.append(str(error))
    assert results[0] == results[1]
    return results[0]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.pcap"


@given(
    content=st.binary(max_size=400),
    head=st.sampled_from([b"", *(seed[:24] for seed in SEEDS), SEEDS[2][:80]]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes(scratch: Path, content: bytes, head: bytes) -> None:
    scratch.write_bytes(head + content)
    decode_anything(scratch)


@given(
    link_type=st.sampled_from(sorted(LINK_TYPES)),
    frames=st.lists(st.tuples(st.binary(max_size=120), st.integers(0, 2**32 - 1)), max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_random_frames(scratch: Path, link_type: int, frames: list[tuple[bytes, int]]) -> None:
    scratch.write_bytes(pcap([Record(data, original=size) for data, size in frames], link_type))
    decoded = decode_anything(scratch)
    assert isinstance(decoded, Decoded)
    assert decoded.counters.read == len(frames)
    for row in decoded.rows:
        assert row["header_octets"] <= row["octets"]
        assert (row["address_a"], row["port_a"]) <= (row["address_b"], row["port_b"]) or row["protocol"] in (
            1,
            58,
        )


@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 1 << 20),
)
@settings(max_examples=500, deadline=None)
def test_mutated_captures(scratch: Path, seed: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(seed)
    for at, value in changes:
        content[at % len(content)] = value
    scratch.write_bytes(content[: cut % len(content)] if cut % 3 == 0 else content)
    decode_anything(scratch)


def mutate_many(path: Path, rounds: int) -> int:
    """Decode mutated seeds, mostly headers; return how many packets were accepted."""
    rng = np.random.default_rng(3)
    accepted = 0
    for i in range(rounds):
        content = np.frombuffer(SEEDS[i % len(SEEDS)], np.uint8).copy()
        places = rng.integers(0, min(len(content), 160), rng.integers(1, 8))
        content[places] = rng.choice([0, 1, 4, 44, 51, 60, 0x2F, 0x45, 0x60, 0x81, 0xFF], len(places))
        path.write_bytes(
            content[: rng.integers(1, len(content) + 1)].tobytes() if i % 2 else content.tobytes()
        )
        decoded = decode_anything(path)
        accepted += decoded.counters.accepted if isinstance(decoded, Decoded) else 0
    return accepted


def test_no_index_is_out_of_bounds(tmp_path: Path) -> None:
    """The same captures give the same packets where Numba checks every index."""
    program = f"""
import pathlib, numba
from tests.producers.test_decoder_fuzz import mutate_many
assert numba.config.BOUNDSCHECK == 1
print(mutate_many(pathlib.Path({str(tmp_path / "checked.pcap")!r}), 400))
"""
    # Kernels built with the checks have to stay out of the cache of those without.
    surroundings = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == mutate_many(tmp_path / "unchecked.pcap", 400) > 0
