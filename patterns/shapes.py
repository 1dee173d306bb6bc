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


def rank(value: gs.Tensor, depth: int = 12) -> int | None:
    """Returns the number of axes of a value: from its declared shape, or from the Conv that it comes from."""
    if value.shape is not None:
        return len(value.shape)
    if not value.inputs or depth == 0:
        return None
    node = value.inputs[0]
    if node.op in ("Conv", "ConvTranspose"):
        return len(node.inputs[1].shape) if isinstance(node.inputs[1], gs.Constant) else None
    if node.op in _KEEPS_RANK:
        return rank(node.inputs[0], depth - 1)
    if node.op in _ELEMENTWISE:
        return max((rank(operand, depth - 1) or 0 for operand in node.inputs), default=0) or None
    return None


def channels(value: gs.Tensor) -> int | None:
    """Returns the size of axis 1 when it is known."""
    if value.shape is None or len(value.shape) < 2:
        return None
    return value.shape[1] if isinstance(value.shape[1], int) else None
