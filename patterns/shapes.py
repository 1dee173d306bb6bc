"""What is known of a value's shape without running the model."""

from __future__ import annotations

import onnx_graphsurgeon as gs

KEEPS_RANK = frozenset(
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
        "Cast",
        "Erf",
        "Gelu",
        "LayerNormalization",
        "Neg",
        "Pad",
        "Pow",
        "Reciprocal",
        "RMSNormalization",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Tanh",
        "Transpose",
    }
)
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Sub"})


def rank(value: gs.Tensor, depth: int = 6) -> int | None:
    """Returns the number of axes of a value: from its declared shape, or from the operators that it comes from."""
    if value.shape is not None:
        return len(value.shape)
    if not value.inputs or depth == 0 or value.inputs[0].domain:
        return None
    node = value.inputs[0]
    if node.op in ("Conv", "ConvTranspose"):
        return len(node.inputs[1].shape) if isinstance(node.inputs[1], gs.Constant) else None
    if node.op == "Concat" and node.inputs:
        return rank(node.inputs[0], depth - 1)
    if node.op == "Reshape":
        return elements(node.inputs[-1])
    if node.op == "Transpose" and "perm" in node.attrs:
        return len(node.attrs["perm"])
    if node.op in KEEPS_RANK:
        return rank(node.inputs[0], depth - 1)
    if node.op in _ELEMENTWISE or node.op == "MatMul":
        return _widest(node, depth - 1)
    return None


def elements(shape: gs.Tensor) -> int | None:
    """Returns how many numbers a shape has, also one that is put together from parts; None where it is not known."""
    if isinstance(shape, gs.Constant):
        return int(shape.shape[0]) if len(shape.shape) == 1 else None
    node = shape.inputs[0] if shape.inputs else None
    if node is None or node.domain or node.op not in ("Concat", "Unsqueeze"):
        return None
    if node.op == "Unsqueeze":
        return 1
    parts = [elements(part) for part in node.inputs]
    return None if None in parts else sum(part for part in parts if part is not None)


def _widest(node: gs.Node, depth: int) -> int | None:
    found = [rank(operand, depth) for operand in node.inputs]
    if node.op == "MatMul" and 1 in found:
        return None
    return None if None in found else max((size for size in found if size is not None), default=None)
