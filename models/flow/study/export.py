"""Trained models as ONNX files: ``rows``, float32 (rows, columns), to ``probabilities``, float32 (rows, classes).

Needs the extra ``study``; what it makes needs ONNX Runtime alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.errors import CascadeError
from models.packet.hush import hush
from models.packet.onnx_session import new_session
from schemas.errors import SettingsError

TOLERANCE = 1e-4
"""Most that the exported model's probabilities may differ; float32 against float64 thresholds come on top."""
_MOST_DIFFERING = 0.002
"""Share of rows that may differ by more: a float32 that falls on the other side of a tree's float64 threshold."""
_OPSET = 15


def sklearn_onnx(model: Any, columns: int) -> bytes:
    """Return a tree or forest of scikit-learn as an ONNX file."""
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        raise SettingsError("skl2onnx is not installed: pip install 'flowgauge[study]'") from None
    with hush():
        made = to_onnx(
            model,
            initial_types=[("rows", FloatTensorType([None, columns]))],
            options={id(model): {"zipmap": False}},
            target_opset=_OPSET,
        )
    return bytes(made.SerializeToString())


def lightgbm_onnx(booster: Any, columns: int) -> bytes:
    """Return a booster of LightGBM as an ONNX file."""
    try:
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError:
        raise SettingsError("onnxmltools is not installed: pip install 'flowgauge[study]'") from None
    with hush():
        made = convert_lightgbm(
            booster,
            initial_types=[("rows", FloatTensorType([None, columns]))],
            zipmap=False,
            target_opset=_OPSET,
        )
    return bytes(made.SerializeToString())


def answers(data: bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what an ONNX file answers."""
    session, _ = new_session(data, "cpu", 1)
    out: NDArray[np.float32] = session.run(
        [session.get_outputs()[-1].name], {session.get_inputs()[0].name: np.ascontiguousarray(rows)}
    )[0]
    return out


def check_export(
    data: bytes, rows: NDArray[np.float32], expected: NDArray[np.floating[Any]], name: str
) -> None:
    """Raise CascadeError unless the exported model answers as the trained one did."""
    if not len(rows):
        return
    differs = np.abs(answers(data, rows) - expected).max(axis=1) > TOLERANCE
    if differs.mean() > _MOST_DIFFERING:
        raise CascadeError(
            f"{name}: exported, {differs.mean():.1%} of its answers differ from the trained model's"
        )
