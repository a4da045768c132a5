"""Takes out of an exported graph what its answers do not need. Needs the package ``onnx``, as exporting does.

Keras writes an embedding such that negative numbers count from the end, which octets never are, and an LSTM's first
state as zeros of the batch's size, which ONNX takes for granted. One packet at a time both cost more than they look.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_OCTET_VALUES = 256
_OCTETS_KEPT = ("Reshape", "Slice")
"""What may stand between the model's octets and where they are looked up."""
_FIRST_STATES = (5, 6)
"""Inputs of ONNX's LSTM: first hidden state, first cell state."""


def simplified(data: bytes) -> bytes:
    """Return an ONNX file that answers the same with fewer nodes."""
    import onnx

    model = onnx.load_model_from_string(data)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Gather" and _looks_up_octets(node, constants):
            octets = _octets_behind(node.input[1], makers)
            if octets is not None:
                number = f"{node.name}_octets"
                node.input[1] = number
                cast = onnx.helper.make_node("Cast", [octets], [number], to=onnx.TensorProto.INT32)
                graph.node.insert(position, cast)
        elif node.op_type == "LSTM":
            for place in _FIRST_STATES:
                if len(node.input) > place and _is_zero(node.input[place], makers, constants):
                    node.input[place] = ""
    _prune(graph)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _looks_up_octets(node: Any, constants: dict[str, Any]) -> bool:
    table = constants.get(node.input[0])
    return table is not None and table.ndim == 2 and len(table) == _OCTET_VALUES


def _octets_behind(name: str, makers: dict[str, Any]) -> str | None:
    """Return the octets, reshaped or in another order at most, that a tensor is computed of; None if unclear."""
    open_, seen, found = [name], set(), set()
    while open_:
        here = open_.pop()
        maker = makers.get(here)
        if maker is None or here in seen:
            continue
        seen.add(here)
        if maker.op_type in _OCTETS_KEPT:
            found.add(here)
        else:
            open_.extend(maker.input)
    return found.pop() if len(found) == 1 else None


def _is_zero(name: str, makers: dict[str, Any], constants: dict[str, Any]) -> bool:
    """Return whether a tensor is zeros, of whatever shape."""
    while name not in constants:
        maker = makers.get(name)
        if maker is None or maker.op_type not in ("Expand", "Unsqueeze"):
            return False
        name = maker.input[0]
    return not np.any(constants[name])


def _prune(graph: Any) -> None:
    """Remove nodes and constants that nothing needs."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for constant in list(graph.initializer):
        if constant.name not in needed:
            graph.initializer.remove(constant)
