"""Finds the weights of the study's LSTMs in an exported graph.

Only the shape of the graph is looked at, not every attribute of its nodes: whether what was found answers as the whole
graph does, is tried out by whoever uses it (``runtime.open_model``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.packet.lstm.kernel import Floats
from models.packet.lstm.tile import GATES
from models.packet.lstm.weights import LstmWeights
from models.packet.onnx_file import Graph, Node

_OCTET_VALUES = 256
_MOVES = frozenset({"Cast", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What moves numbers and does not change them."""


def lstms_of(graph: Graph, step_octets: int) -> list[LstmWeights]:
    """Return the weights of each LSTM of a graph that averages some, or is one; nothing where it is another graph."""
    found = [_lstm(graph, node, step_octets) for node in graph.nodes if node.op == "LSTM"]
    members = [member for member in found if member is not None]
    classes = {len(member.bias) for member in members}
    return members if len(members) == len(found) and len(classes) == 1 else []


def _lstm(graph: Graph, node: Node, step_octets: int) -> LstmWeights | None:
    weights = [graph.weights.get(name) for name in node.inputs[1:4]]
    table, last = _table(graph, node.inputs[0]), _dense(graph, node)
    if table is None or last is None or len(weights) != 3 or any(weight is None for weight in weights):
        return None
    # The first dimension is the direction.
    kernel, recurrent, biases = (np.asarray(weight, np.float32)[0] for weight in weights)
    made = LstmWeights(table, kernel, recurrent, biases, *last)
    return made if _fits(made, step_octets) else None


def _fits(made: LstmWeights, step_octets: int) -> bool:
    units = made.recurrent.shape[-1]
    wanted = (
        (made.table, (_OCTET_VALUES, made.table.shape[-1])),
        (made.kernel, (GATES * units, step_octets * made.table.shape[-1])),
        (made.recurrent, (GATES * units, units)),
        (made.biases, (2 * GATES * units,)),
        (made.dense, (units, len(made.bias))),
    )
    return all(weight.shape == shape for weight, shape in wanted)


def _table(graph: Graph, name: str) -> Floats | None:
    """Return the numbers that stand for each octet, of what an LSTM takes; None where it takes something else."""
    makers = {output: node for node in graph.nodes for output in node.outputs}
    for _ in graph.nodes:
        node = makers.get(name)
        if node is None:
            return None
        first = graph.weights.get(node.inputs[0])
        if node.op == "Gather":
            return None if first is None else _floats(first)
        if node.op == "Mul":
            factor = first if first is not None else graph.weights.get(node.inputs[1])
            if factor is None or factor.size != 1:
                return None
            return np.arange(_OCTET_VALUES, dtype=np.float32)[:, None] * _floats(factor).ravel()
        if node.op not in _MOVES:
            return None
        name = node.inputs[0]
    return None


def _dense(graph: Graph, lstm: Node) -> tuple[Floats, Floats] | None:
    """Return weights and biases of the layer behind an LSTM."""
    for node in _behind(graph, lstm):
        if node.op != "MatMul" or node.inputs[1] not in graph.weights:
            continue
        dense = _floats(graph.weights[node.inputs[1]])
        if dense.ndim != 2:
            return None
        bias = np.zeros(dense.shape[1], np.float32)
        for after in graph.nodes:
            if after.op == "Add" and node.outputs[0] in after.inputs:
                given = [graph.weights[name] for name in after.inputs if name in graph.weights]
                bias = _floats(given[0]).ravel() if given else bias
        return dense, bias
    return None


def _behind(graph: Graph, node: Node) -> Iterator[Node]:
    """Yield the nodes that take what a node gives, moved at most."""
    names = set(node.outputs) - {""}
    for after in graph.nodes:
        if names.intersection(after.inputs):
            yield after
            if after.op in _MOVES:
                names.update(after.outputs)


def _floats(weight: np.ndarray) -> Floats:
    return np.ascontiguousarray(weight, np.float32)
