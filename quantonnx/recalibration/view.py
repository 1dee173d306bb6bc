"""The float network behind a Q/DQ file: what calibration runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.inspecting import QuantizedConstant, constant_of, find_pairs, zero_point
from quantonnx.model import Model
from quantonnx.recalibration.numbers import Numbers, readable
from quantonnx.weights import to_onnx_dtype

Array = np.ndarray[Any, Any]

_BEFORE_RELU = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "MatMul"}
)
"""Operators after which a tool may have dropped a Relu; graph inputs just happened to be positive in the old data."""


@dataclass(frozen=True)
class FloatView:
    """A float model, and by quantized tensor the value in it whose range a pair has to cover."""

    model: Model
    watched: dict[str, str]


def float_view(source: Model) -> FloatView:
    """Returns the network without the pairs that can get new numbers, stored codes as the float values they mean.

    Where the saturation of a pair stands in for a Relu or Relu6 that a tool has dropped, that operator comes back.
    """
    model = source.copy()
    editor = Rewriter(model)
    stored, found = find_pairs(model).constants, readable(model)[0]
    for constant in stored:
        _take_out_constant(editor, constant)
    watched = {}
    for numbers in found:
        pair = numbers.pair
        for node in pair.moving:
            for output in node.outputs:
                output.dtype = pair.quantize.inputs[0].dtype
        value = _saturated(editor, numbers)
        watched[pair.tensor] = value.name
        editor.bypass(pair.quantize, value)
        for node in pair.dequantize:
            _take_out(editor, node)
    model.sort()
    return FloatView(model, watched)


def _saturated(editor: Rewriter, numbers: Numbers) -> gs.Tensor:
    value = numbers.pair.quantize.inputs[0]
    if not numbers.is_rectifier or not value.inputs or value.inputs[0].op not in _BEFORE_RELU:
        return value
    name = numbers.pair.tensor
    result = editor.insert("Relu", [value], f"{name}_rectified")
    if numbers.ends_at_six:
        six = editor.constant(f"{name}_six", np.asarray(6, value.dtype or numbers.scale.dtype))
        result = editor.insert("Min", [result, six], f"{name}_at_most_six")
    return result


def _take_out_constant(editor: Rewriter, constant: QuantizedConstant) -> None:
    """ONNX Runtime cannot watch some values of a graph whose weights come from a DequantizeLinear."""
    node, stored = constant.node, constant.stored
    scale, zero = constant_of(node.inputs[1]), zero_point(editor.model, node)
    if scale is None or node.attrs.get("block_size") or editor.is_public(node.outputs[0]):
        return
    if node.inputs[0].inputs and node.inputs[0].inputs[0].op == "QuantizeLinear":
        compute = partial(editor.model.array, stored)
    else:
        compute = partial(_dequantized, editor.model, stored, scale, zero, int(node.attrs.get("axis", 1)))
    name = f"{node.outputs[0].name}_float"
    editor.bypass(node, editor.deferred(name, stored.shape, to_onnx_dtype(scale.dtype), compute))


def _dequantized(model: Model, stored: gs.Constant, scale: gs.Constant, zero: Array | None, axis: int) -> Array:
    codes, factors = model.array(stored).astype(np.float32), model.array(scale)
    shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)] if factors.size > 1 else ()
    offset = np.float32(0) if zero is None else zero.astype(np.float32).reshape(shape)
    return ((codes - offset) * factors.astype(np.float32).reshape(shape)).astype(factors.dtype)


def _take_out(editor: Rewriter, node: gs.Node) -> None:
    """Lets readers see what the node reads; one that gives a public value becomes an Identity, so that no name goes."""
    if not node.inputs:
        return  # another pair ends in the same node
    if not editor.is_public(node.outputs[0]):
        editor.bypass(node, node.inputs[0])
        return
    editor.drop_inputs(node, 1)
    node.op, node.domain = "Identity", None
    node.attrs.clear()
