"""Which constants of a graph are weights that training may move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.element_types import FLOATS
from quantonnx.torch.node import Array

_MOVING = frozenset(
    {"Identity", "Cast", "Concat", "Expand", "Flatten", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose first inputs go on as they are: what reads their result says what a constant is."""

_FIXED = {
    "BatchNormalization": {3, 4},
    "Clip": {1, 2},
    "ConstantOfShape": {0},
    "DequantizeLinear": {0, 1, 2},
    "DynamicQuantizeLinear": {0},
    "Equal": {0, 1},
    "Greater": {0, 1},
    "GreaterOrEqual": {0, 1},
    "Less": {0, 1},
    "LessOrEqual": {0, 1},
    "Mod": {0, 1},
    "OneHot": {0, 1, 2},
    "Pad": {2},
    "Pow": {1},
    "QuantizeLinear": {1, 2},
    "Range": {0, 1, 2},
    "Resize": {1, 2, 3},
    "Upsample": {1},
    "Where": {0, 1, 2},
}
"""Inputs that are no weights, by operator."""

_OF_LAYERS = {"Conv": {1, 2}, "ConvTranspose": {1, 2}, "Gemm": {1, 2}, "MatMul": {1}, "PRelu": {1}}
"""Inputs that are weights also where they are a single number."""

_LARGEST = 1e4
"""Additive masks hold −1e9 and the like in the place of −∞; no weight is so large."""


def is_weight(constant: gs.Tensor, values: Array) -> bool:
    """True for float values that some operator multiplies, adds or looks up; for one number, where it is a layer's own.

    Running statistics, bounds, exponents, masks and the numbers of Q/DQ pairs are none.
    """
    readers = list(_readers(constant))
    if values.dtype.name not in FLOATS or any(is_statistic(node, index) for node, index in readers):
        return False
    if values.size < 2:
        return any(index in _OF_LAYERS.get(node.op, ()) for node, index in readers)
    if not np.isfinite(values).all() or np.abs(values).max() >= _LARGEST:
        return False
    return any(index not in _FIXED.get(node.op, ()) for node, index in readers)


def is_statistic(node: gs.Node, index: int) -> bool:
    """True where a normalization reads its running mean or variance, which it moves itself."""
    return node.op == "BatchNormalization" and index in _FIXED["BatchNormalization"]


def _readers(value: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """Yields the operators that compute with a value, and the place where they read it."""
    pending, seen = [value], {id(value)}
    while pending:
        current = pending.pop()
        for node in current.outputs:
            index = next(i for i, read in enumerate(node.inputs) if read is current)
            if node.op not in _MOVING:
                yield node, index
                continue
            following = [output for output in node.outputs if id(output) not in seen]
            seen.update(map(id, following))
            pending += following
