"""Payload batches: what comes back, and the checks that make them safe for kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.bus import MAX_MESSAGE_BYTES
from schemas.codec import decode, encode
from schemas.errors import CodecError
from schemas.payloads import (
    COLUMNS,
    FIRST_OCTETS,
    MASKED_OCTETS,
    MAX_ROWS,
    PayloadBatch,
    decode_payload_batch,
    empty_columns,
)
from tests.schemas.messages import message


def columns_of(payloads: list[bytes]) -> dict[str, Any]:
    """Return the columns of a batch of one flow; payloads begin behind the mask."""
    columns: dict[str, Any] = {
        c.name: np.ones((1 if c.rows == "flow_count" else len(payloads), *c.dtype.shape), c.dtype.base)
        for c in COLUMNS
    }
    columns["ip_version"][:] = 4
    columns["flow_index"][:] = 0
    columns["length"][:] = [len(payload) for payload in payloads]
    columns["payload"] = np.frombuffer(b"".join(payloads), np.uint8)
    return columns


def made(payloads: list[bytes]) -> PayloadBatch:
    return PayloadBatch("p", 1, 0, 4, 9, 5, columns_of(payloads))


@settings(max_examples=100, deadline=None)
@given(payloads=st.lists(st.binary(max_size=60) | st.just(bytes(range(1, 147)) * 10), max_size=20))
def test_payloads_come_back_masked_and_padded(payloads: list[bytes]) -> None:
    if not payloads:
        back = decode_payload_batch(PayloadBatch("p", 1, 0, 4, 9, 5, empty_columns()).encode())
        assert (back.rows, back.flows, back.vectors().shape) == (0, 0, (0, FIRST_OCTETS))
        return
    back = decode_payload_batch(made(payloads).encode())
    wanted = [(bytes(MASKED_OCTETS) + payload).ljust(FIRST_OCTETS, b"\0") for payload in payloads]
    assert [back.payload(row) for row in range(back.rows)] == wanted
    assert back.vectors().tobytes() == b"".join(wanted)
    used = np.full((len(payloads) + 3, FIRST_OCTETS), 7, np.uint8)
    assert back.vectors(used).tobytes() == b"".join(wanted)
    assert np.all(used[len(payloads) :] == 7)


def test_the_largest_batch_fits_a_message() -> None:
    columns = columns_of([b"\xff" * (FIRST_OCTETS - MASKED_OCTETS)] * MAX_ROWS)
    for c in COLUMNS:
        if c.rows == "flow_count":
            columns[c.name] = np.repeat(columns[c.name], MAX_ROWS, axis=0)
    data = PayloadBatch("p" * 100, 1, 0, 4, 9, 5, columns, observation_point="x" * 255).encode()
    assert decode_payload_batch(data).flows == MAX_ROWS
    assert len(data) < MAX_MESSAGE_BYTES * 0.85


def broken(**changes: Any) -> bytes:
    return encode("PayloadBatch", {**decode("PayloadBatch", message("PayloadBatch")), **changes})


@pytest.mark.parametrize("column", [c.name for c in COLUMNS])
def test_columns_of_another_length_are_refused(column: str) -> None:
    raw = decode("PayloadBatch", message("PayloadBatch"))[column]
    for wrong in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(CodecError, match=f"column {column}: "):
            decode_payload_batch(broken(**{column: wrong}))


def test_values_out_of_range_are_refused() -> None:
    raw = decode("PayloadBatch", message("PayloadBatch"))
    far = np.array([-1, 5], "<i8").tobytes()
    for changes, said in (
        ({"flow_index": b"\0\0\2\0\0\0"}, "past the flow directory"),
        ({"direction": b"\0\2\0"}, "direction"),
        ({"first_direction": b"\0\2"}, "direction"),
        ({"start_ns": far}, "before 1970"),
        ({"time_ns": np.array([5, 2**62 + 1, 5], "<i8").tobytes()}, "after 2116"),
        ({"ip_version": b"\5\4"}, "IP version"),
        ({"length": np.array([18, 0, 3], "<u2").tobytes()}, "lengths"),
        ({"first_octets": 36}, "longer than first_octets"),
        ({"packet_number": bytes(12)}, "packet number of 0"),
        ({"first_octets": FIRST_OCTETS + 1}, "at most 1480"),
        ({"masked_octets": -1}, "at most 1480"),
        ({"masked_octets": 1481}, "at most 1480"),
        ({"probe": ""}, "name of its probe"),
        ({"partition": 4}, "partition 4 of 4"),
        ({"sequence": -1}, "sequence -1"),
    ):
        with pytest.raises(CodecError, match=said):
            decode_payload_batch(encode("PayloadBatch", {**raw, **changes}))


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(CodecError, match="513 payloads and 1 flows; at most 512"):
        decode_payload_batch(made([b"x"] * (MAX_ROWS + 1)).encode())
