"""What is known of a value's shape without running the model."""

from __future__ import annotations

import onnx_graphsurgeon as gs

_KEEPS_RANK = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "HardSwish",
        "HardSigmoid",
        "BatchNormalization",
        "MaxPool",
        "AveragePool",
    }
)
_ELEMENTWISE = frozenset({"Add", "Mul"})


def rank(value: gs.Tensor, depth: int = 6) -> int | None:
    """Returns the number of axes of a value: from its declared shape, or from the Conv that it comes from."""
    if value.shape is not None:
        return len(value.shape)
    if not value.inputs or depth == 0 or value.inputs[0].domain:
        return None
    node = value.inputs[0]
    if node.op in ("Conv", "ConvTranspose"):
        return len(node.inputs[1].shape) if isinstance(node.inputs[1], gs.Constant) else None
    if node.op in _KEEPS_RANK:
        return rank(node.inputs[0], depth - 1)
    if node.op in _ELEMENTWISE:
        return _widest(node, depth - 1)
    return None


def _widest(node: gs.Node, depth: int) -> int | None:
    found = [rank(operand, depth) for operand in node.inputs]
    return None if None in found else max((size for size in found if size is not None), default=None)
