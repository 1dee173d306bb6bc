"""Dimensions that a model computes at run time though its operators fix them: the width of a head behind a Reshape.

TorchScript writes them as Shape → Gather or Slice, and a scale or a shape computed from them; as constants they make
the same graph as other exporters write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.pattern import Conversion, Mismatch, const, either, op, tensor
from quantonnx.weights import load_array

from .public import refuse_public
from .shapes import rank

_SAME_SHAPE = frozenset(
    {"Cast", "Erf", "Gelu", "Identity", "LeakyRelu", "Neg", "Relu", "RMSNormalization", "Sigmoid", "Softmax", "Tanh"}
)
_BROADCASTS = frozenset({"Add", "Div", "Mul", "Sub"})
_FROM_THE_FRONT = frozenset({"Gather", "Split", "Squeeze"})


class FoldDimension(Conversion):
    """Dimensions taken from the shape of a value become constants, where operators and weights fix them."""

    shape = tensor()
    index, end = const(), const()
    axes, steps = const(optional=True), const(optional=True)
    gather = op.Gather(shape, index, axis=lambda axis: not axis)
    output = either(gather, op.Slice(shape, index, end, axes, steps))

    def check(self) -> None:
        """Refuses what is not the shape of a value, a dimension that is open, and a name that must stay."""
        node = self.shape.inputs[0] if self.shape.inputs else None
        if node is None or node.op != "Shape" or node.domain or node.attrs:
            raise Mismatch(f"{self.shape.name!r} is not the whole shape of a value")
        refuse_public(self)
        taken = self._taken(rank(node.inputs[0]))
        sizes = [dimension(node.inputs[0], int(axis)) for axis in taken.reshape(-1)]
        if not sizes or None in sizes:
            raise Mismatch(f"nothing in the model fixes these dimensions of {node.inputs[0].name!r}")
        self.sizes = np.asarray(sizes, np.int64).reshape(taken.shape)

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the operator by the numbers."""
        graph.bypass(self.output, graph.constant(f"{self.result.name}_value", self.sizes))

    def _taken(self, count: int | None) -> np.ndarray[Any, Any]:
        """The axes that are taken, counted from the end."""
        taken = self.array(self.index) if self.gather is not None else self._sliced(count)
        if count is None and (taken >= 0).any():
            raise Mismatch(f"{self.shape.name!r} has an unknown number of elements")
        return np.where(taken >= 0, taken - (count or 0), taken)

    def _sliced(self, count: int | None) -> np.ndarray[Any, Any]:
        if any(v is not None and self.array(v).tolist() != [wanted] for v, wanted in ((self.axes, 0), (self.steps, 1))):
            raise Mismatch(f"{self.output.name!r} takes steps")
        first, end = (int(self.array(value).reshape(-1)[0]) for value in (self.index, self.end))
        if count is not None:
            return np.arange(count)[first:end]
        return np.arange(first, 0 if end > 0 else end)


def dimension(value: gs.Tensor, axis: int, depth: int = 10) -> int | None:
    """Returns the size of an axis, counted from the end (-1 is the last), where operators and weights fix it."""
    if value.shape is not None:
        size = value.shape[axis] if len(value.shape) >= -axis else None
        return size if isinstance(size, int) else None
    if not value.inputs or depth == 0 or value.inputs[0].domain:
        return None
    node = value.inputs[0]
    if node.op in _SAME_SHAPE:
        return dimension(node.inputs[0], axis, depth - 1)
    if node.op in _BROADCASTS:
        sizes = (dimension(operand, axis, depth - 1) for operand in node.inputs)
        return next((size for size in sizes if size not in (None, 1)), None)
    if node.op == "Transpose" and len(node.attrs.get("perm", ())) >= -axis:
        perm = node.attrs["perm"]
        return dimension(node.inputs[0], perm[axis] - len(perm), depth - 1)
    return _last(node, depth) if axis == -1 else None


def _last(node: gs.Node, depth: int) -> int | None:
    """The last dimension of a result: that of a weight, of the shape of a Reshape, or of what is cut in front only."""
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op in _FROM_THE_FRONT and _cuts_in_front(node, operand):
        return dimension(node.inputs[0], -1, depth - 1)
    if node.op == "Reshape":
        return _last_element(operand)
    if not isinstance(operand, gs.Constant):
        return None
    if node.op == "LayerNormalization" and node.attrs.get("axis", -1) == -1:
        return int(operand.shape[-1])
    if node.op == "MatMul" and len(operand.shape) >= 2:
        return int(operand.shape[-1])
    if node.op == "Gemm":
        return int(operand.shape[0 if node.attrs.get("transB", 0) else 1])
    return None


def _cuts_in_front(node: gs.Node, operand: gs.Tensor | None) -> bool:
    """True for an operator that acts on the first of several axes."""
    if (rank(node.inputs[0]) or 0) < 2:
        return False
    if node.op != "Squeeze":
        return not node.attrs.get("axis", 0)
    axes = load_array(operand).tolist() if isinstance(operand, gs.Constant) else node.attrs.get("axes")
    return bool(axes == [0])


def _last_element(shape: gs.Tensor | None) -> int | None:
    """The last number of the shape that a Reshape takes: a constant, or put together from parts."""
    if shape is not None and shape.inputs and shape.inputs[0].op == "Concat" and not shape.inputs[0].domain:
        shape = shape.inputs[0].inputs[-1]
    if not isinstance(shape, gs.Constant) or len(shape.shape) != 1 or not shape.shape[0]:
        return None
    last = int(load_array(shape)[-1])
    return last if last > 0 else None


dimensions = (FoldDimension,)
