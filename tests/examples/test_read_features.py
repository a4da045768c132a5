"""The reader of packed feature rows that needs nothing of Flowgauge, against Flowgauge's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.codec import schema
from schemas.columns import columns_of
from schemas.features import ROW_COLUMNS, FeatureBatch, decode_feature_batch
from schemas.packets import join_names

PATH = Path(__file__).resolve().parents[2] / "examples" / "read_features.py"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("read_features", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(rows: int, *, with_services: bool, longer: float) -> FeatureBatch:
    rng = np.random.default_rng(rows)
    columns: dict[str, np.ndarray] = {}
    for column in ROW_COLUMNS:
        shape = (rows, *column.dtype.shape)
        most = min(np.iinfo(column.dtype.base).max, 1 << 61)
        columns[column.name] = rng.integers(0, most, shape, column.dtype.base)
    columns["ip_version"] = np.where(rng.random(rows) < longer, 6, 4).astype(np.uint8)
    for name in ("source_address", "destination_address"):
        columns[name][columns["ip_version"] == 4, 4:] = 0
    columns["flow_end_reason"][:] = 1
    columns["depth"][:] = 8  # a column of no bits
    columns["octets_fwd"][: rows // 2] = 0
    features = rng.normal(size=(rows, 4)).astype(np.float32)
    features[:, 0] = rng.integers(0, 1000, rows)
    features[:, 1] = 0.0
    columns["features"] = features
    if with_services:
        columns |= {
            "texts": join_names(["", "video", "www.example.com"]),
            "service": rng.integers(0, 2, rows, np.uint16),
            "service_found_by": rng.integers(0, 4, rows, np.uint8),
            "server_name": np.full(rows, 2, np.uint16),
        }
    return FeatureBatch("p", "window", 0, ("a", "b", "c", "d"), columns)


@pytest.mark.parametrize("rows", [1, 7, 500])
@pytest.mark.parametrize("longer", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_services", [False, True])
def test_it_reads_what_flowgauge_reads(rows: int, longer: float, with_services: bool) -> None:
    message = batch(rows, with_services=with_services, longer=longer).encode()
    record, table = example().FeatureReader().read(message)
    own = decode_feature_batch(message)
    assert record["probe"] == "p"
    for column in columns_of(schema("FeatureBatch")):
        if column.name in table:
            np.testing.assert_array_equal(table[column.name], own.columns[column.name], err_msg=column.name)
    assert {c.name for c in ROW_COLUMNS} | {"features"} <= set(table)
    assert ("service" in table) == with_services


def test_it_tells_what_is_no_feature_batch() -> None:
    with pytest.raises(ValueError, match="not written with FeatureBatch"):
        example().FeatureReader().read(b"\xc3\x01" + bytes(20))
