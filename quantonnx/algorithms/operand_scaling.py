"""Constants multiplied by a factor for each channel: in place where nothing else reads them, else as a copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.algorithms.norm_readers import Operand
from quantonnx.editing import Rewriter
from quantonnx.model import Model
from quantonnx.weights import DeferredValues, load_array, to_onnx_dtype

Array = NDArray[Any]


class OperandScaler:
    """Scales the operands of one model, in place; other edits on it go through its `editor`."""

    def __init__(self, model: Model) -> None:
        self.editor = Rewriter(model)
        self._reads = {name: len(value.outputs) for name, value in model.tensors().items()}

    def scale(self, operand: Operand, scale: Array, name: str) -> None:
        """Changes a constant that nothing else reads; of others, readers here get a scaled copy of that name."""
        old = operand.constant
        unscaled = gs.Constant(old.name, old._values)
        unscaled._export_dtype = old._export_dtype
        compute, kind = partial(_scaled, unscaled, scale, operand.axis), to_onnx_dtype(old.dtype)
        if self._reads[old.name] == len(operand.edges) and not self.editor.is_public(old):
            old._values = DeferredValues(old.shape, kind, compute)
            return
        new = self.editor.deferred(name, old.shape, kind, compute)
        for node, index in operand.edges:
            self.editor.set_input(node, index, new)


def divide_input(editor: Rewriter, nodes: Sequence[gs.Node], scale: Array, name: str) -> None:
    """Puts one Mul by 1 / `scale`, float32 [channels] of the last axis, between a value and the nodes whose first input
    it is; `name` is that of the result."""
    value, weight = nodes[0].inputs[:2]
    factors = editor.constant(f"{value.name}_factors", (1 / scale).astype(weight.dtype))
    divided = editor.insert("Mul", [value, factors], name)
    divided.shape = value.shape
    for node in nodes:
        editor.set_input(node, 0, divided)


def fits(operand: Operand, scale: Array) -> bool:
    """Returns whether a constant times a factor for each channel is finite in its own type."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(_scaled(operand.constant, scale, operand.axis)).all())


def _scaled(constant: gs.Constant, scale: Array, axis: int) -> Array:
    array = load_array(constant)
    shape = [1] * array.ndim
    shape[axis] = -1
    return np.asarray((array.astype(np.float32) * scale.reshape(shape)).astype(array.dtype))
