"""What is known of a value's shape without running the model."""

from __future__ import annotations

from typing import Protocol

import onnx_graphsurgeon as gs

from quantonnx.weights import load_array

Size = int | str | None
"""The length of an axis: a number, the name of an open one, or None where neither is known."""

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
    if shape.shape is not None and len(shape.shape) == 1 and isinstance(shape.shape[0], int):
        return shape.shape[0]
    node = shape.inputs[0] if shape.inputs else None
    if node is None or node.domain or node.op not in ("Concat", "Gather", "Unsqueeze"):
        return None
    if node.op == "Gather":
        return elements(node.inputs[1]) if isinstance(node.inputs[1], gs.Constant) else None
    if node.op == "Unsqueeze":
        return 1
    parts = [elements(part) for part in node.inputs]
    return None if None in parts else sum(part for part in parts if part is not None)


class Known(Protocol):
    """What is known of the axes of values so far."""

    def rank(self, value: gs.Tensor) -> int | None:
        """Returns the number of axes."""

    def size(self, value: gs.Tensor, axis: int) -> Size:
        """Returns the length of an axis, counted from the end."""


def element(shape: gs.Tensor, place: int, known: Known) -> Size:
    """Returns a number of a shape, counted from the end: of a constant, or of one that is put together."""
    if isinstance(shape, gs.Constant):
        return int(load_array(shape).reshape(-1)[place]) if shape.shape and shape.shape[0] >= -place else None
    node = shape.inputs[0] if shape.inputs else None
    if node is None or node.domain:
        return None
    if node.op == "Concat":
        return _element_of_parts(node, place, known)
    if node.op == "Unsqueeze" and place == -1 and node.inputs[0].inputs:
        node = node.inputs[0].inputs[0]
    return _taken(node, place, known)


def _element_of_parts(node: gs.Node, place: int, known: Known) -> Size:
    for part in reversed(node.inputs):
        length = elements(part)
        if length is None or -place <= length:
            return None if length is None else element(part, place, known)
        place += length
    return None


def _taken(node: gs.Node, place: int, known: Known) -> Size:
    """A number that is taken from the shape of a value."""
    source = node.inputs[0].inputs[0] if node.op in ("Gather", "Slice") and node.inputs[0].inputs else None
    count = known.rank(source.inputs[0]) if source is not None and is_whole_shape(source) else None
    if count is None or source is None:
        return None
    operands = [load_array(v).reshape(-1).tolist() for v in node.inputs[1:] if isinstance(v, gs.Constant)]
    if not operands or len(operands) != len(node.inputs) - 1:
        return None
    if node.op == "Gather":
        axes = [axis % count for axis in operands[0]]
    else:
        axes = list(range(count))[operands[0][0] : operands[1][0]] if len(operands) < 4 else []
    return known.size(source.inputs[0], axes[place] - count) if len(axes) >= -place else None


def is_whole_shape(node: gs.Node) -> bool:
    """True for an operator Shape that gives all dimensions."""
    return node.op == "Shape" and not node.domain and not node.attrs.get("start", 0) and "end" not in node.attrs


def _widest(node: gs.Node, depth: int) -> int | None:
    found = [rank(operand, depth) for operand in node.inputs]
    if node.op == "MatMul" and 1 in found:
        return None
    return None if None in found else max((size for size in found if size is not None), default=None)
