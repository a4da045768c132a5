"""Feature batches as plain records: the columns a person or another program reads, by name.

Names and order are those of every output of ``flowgauge flows`` and of ``flowgauge tail --rows``.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Array
from schemas.community_id import community_ids
from schemas.features import FeatureBatch, FlowEndReason, ServiceFoundBy
from schemas.packets import split_names

FIELDS: dict[str, str] = {
    "flow_id": "string",
    "community_id": "string",
    "probe": "string",
    "source_address": "string",
    "destination_address": "string",
    "source_port": "uint16",
    "destination_port": "uint16",
    "protocol": "uint8",
    "start_ns": "int64",
    "end_ns": "int64",
    "interval_start_ns": "int64",
    "duration_ns": "int64",
    "depth": "uint32",
    "flow_end_reason": "string",
    "tcp_flags": "uint8",
    "packets_fwd": "uint32",
    "packets_rev": "uint32",
    "octets_fwd": "uint64",
    "octets_rev": "uint64",
}
"""Field to Arrow type; the features of the representation follow, as float32."""

SERVICE_FIELDS: dict[str, str] = {
    "service": "string",
    "service_found_by": "string",
    "server_name": "string",
}
"""Fields that follow where services are named in the settings."""

_FOUND_BY = np.array([way.text for way in ServiceFoundBy], dtype=object)
_REASONS = np.array([reason.text for reason in FlowEndReason], dtype=object)


def address_texts(addresses: Array, ip_version: Array) -> NDArray[np.object_]:
    """Return the texts of (rows, 16) addresses; each distinct address is written once."""
    raw = np.ascontiguousarray(addresses, dtype=np.uint8).reshape(-1, 16)
    keyed = np.concatenate([raw, np.asarray(ip_version, dtype=np.uint8).reshape(-1, 1)], axis=1)
    whole = np.ascontiguousarray(keyed).view(np.dtype((np.void, 17))).ravel()
    distinct, which = np.unique(whole, return_inverse=True)
    texts = np.empty(len(distinct), dtype=object)
    for i, value in enumerate(distinct):
        texts[i] = _address_text(value.tobytes())
    return texts[which]


def _address_text(raw: bytes) -> str:
    if raw[16] == 4:
        return f"{raw[0]}.{raw[1]}.{raw[2]}.{raw[3]}"
    return str(ipaddress.IPv6Address(raw[:16]))


def flow_id_texts(flow_ids: Array) -> list[str]:
    """Return flow ids as 16 hexadecimal digits each."""
    digits = np.ascontiguousarray(flow_ids, dtype=">u8").tobytes().hex()
    return [digits[i : i + 16] for i in range(0, len(digits), 16)]


def record_columns(batch: FeatureBatch) -> dict[str, Any]:
    """Return the batch's FIELDS, each a list or array of its rows (features are not among them).

    SERVICE_FIELDS are there too where the batch has services.
    """
    columns = batch.columns
    made: dict[str, Any] = {
        "flow_id": flow_id_texts(columns["flow_id"]),
        "community_id": community_ids(columns),
        "probe": [batch.probe] * batch.rows,
        "source_address": address_texts(columns["source_address"], columns["ip_version"]),
        "destination_address": address_texts(columns["destination_address"], columns["ip_version"]),
        "duration_ns": columns["end_ns"] - columns["start_ns"],
        "flow_end_reason": _REASONS[columns["flow_end_reason"]],
    }
    fields = {name: made[name] if name in made else columns[name] for name in FIELDS}
    return {**fields, **_service_fields(columns)} if "service" in columns else fields


def _service_fields(columns: dict[str, Array]) -> dict[str, Any]:
    texts = np.array(split_names(columns["texts"]), dtype=object)
    return {
        "service": texts[columns["service"]],
        "service_found_by": _FOUND_BY[columns["service_found_by"]],
        "server_name": texts[columns["server_name"]],
    }


def short_floats(values: Array) -> NDArray[np.float64]:
    """Return float32 values as float64 ones that read short (0.1, not 0.10000000149011612).

    Each result still rounds to the very float32 it stands for: it has the fewest of 7, 8 or 9 digits that do.
    """
    exact = np.asarray(values, dtype=np.float32)
    out = exact.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.floor(np.log10(np.abs(out)))
        # Beyond these a power of ten is no exact float64 any more, and the rounding would not be either.
        open_rows = np.isfinite(exponent) & (np.abs(exponent) < 14) & (out != np.rint(out))
        for digits in (7, 8, 9):
            scale = 10.0 ** np.abs(digits - 1 - exponent)
            down = exponent > digits - 1
            rounded = np.where(down, np.rint(out / scale) * scale, np.rint(out * scale) / scale)
            fits = open_rows & (rounded.astype(np.float32) == exact)
            out = np.where(fits, rounded, out)
            open_rows &= ~fits
    return out
