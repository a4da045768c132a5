"""Ids of predictions: BLAKE2b as the standard library has it, of what the id names."""

from __future__ import annotations

import struct
from hashlib import blake2b

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.blake2b import digests
from schemas.prediction_ids import NAMED, ids_of


def expected(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def test_heads_of_all_lengths() -> None:
    tails = np.arange(3 * 20, dtype=np.uint8).reshape(3, 20)
    for size in range(401):
        head = bytes((7 * i + size) % 256 for i in range(size))
        wanted = [expected(head + tail.tobytes()) for tail in tails]
        assert digests(np.frombuffer(head, np.uint8), tails).tolist() == wanted, size


@given(st.binary(max_size=400), st.integers(0, 300), st.integers(0, 3), st.integers(0, 2**32 - 1))
@example(b"", 0, 1, 0)
@example(bytes(128), 0, 1, 0)
@example(bytes(256), 128, 2, 0)
def test_heads_and_tails_are_hashed_as_one_text(head: bytes, octets: int, rows: int, seed: int) -> None:
    tails = np.random.default_rng(seed).integers(0, 256, (rows, octets), np.uint8)
    assert digests(np.frombuffer(head, np.uint8), tails).tolist() == [
        expected(head + tail.tobytes()) for tail in tails
    ]


ROW = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))


@given(st.text(max_size=80), st.text(max_size=80), st.lists(ROW, max_size=4))
def test_ids_are_of_model_representation_flow_depth_and_interval(
    model: str, representation: str, named: list[tuple[int, int, int]]
) -> None:
    head = f"{model}\0{representation}\0".encode()
    wanted = [expected(head + struct.pack("<QIq", *row)) for row in named]
    assert ids_of(model, representation, np.array(named, NAMED)).tolist() == wanted
