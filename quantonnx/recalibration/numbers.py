"""The numbers of the activation pairs that a file has, and which of them can be replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.decisions import Decision
from quantonnx.formats import TensorFormat
from quantonnx.inspecting import Pair, constant_of, find_pairs, zero_point
from quantonnx.model import Model
from quantonnx.weights import to_numpy_dtype

Array = np.ndarray[Any, Any]

_SIX = 6.0
_NEARLY = 0.03


@dataclass(frozen=True, eq=False)
class Numbers:
    """Scale, zero point and format of one activation pair as the file has them."""

    pair: Pair
    scale: Array
    zero_point: Array
    format: TensorFormat

    @property
    def key(self) -> tuple[bytes, bytes, str]:
        """What is equal where two pairs have the same numbers."""
        return self.scale.tobytes(), self.zero_point.tobytes(), self.format.dtype.name

    @property
    def is_rectifier(self) -> bool:
        """Whether the lowest code is zero: tools then drop a Relu before the pair, whose saturation does its work."""
        return int(self.zero_point.reshape(-1)[0]) == self.format.qmin

    @property
    def ends_at_six(self) -> bool:
        """Whether the highest code is 6, as where a tool has dropped a Relu6."""
        steps = self.format.qmax - int(self.zero_point.reshape(-1)[0])
        return self.is_rectifier and abs(steps * float(self.scale.reshape(-1)[0]) - _SIX) < _NEARLY


def readable(model: Model) -> tuple[list[Numbers], list[Decision]]:
    """Returns the activation pairs that can get other numbers, and why the rest cannot."""
    found: list[Numbers] = []
    left: list[Decision] = []
    for pair in find_pairs(model).activations:
        numbers = _read(model, pair)
        if isinstance(numbers, str):
            left.append(Decision(pair.tensor, numbers))
        else:
            found.append(numbers)
    return found, left


def _read(model: Model, pair: Pair) -> Numbers | str:
    """Returns the numbers of a pair, or why they cannot be replaced."""
    if pair.open:
        return pair.open
    dtype = code_type(model, pair.quantize)
    read = [scale_and_zero_point(model, node, dtype) for node in (pair.quantize, *pair.dequantize)]
    if any(numbers is None for numbers in read):
        return "its scale is computed in the graph"
    (scale, zero), *others = (numbers for numbers in read if numbers is not None)
    if scale.size != 1:
        return "it has a scale for each channel"
    if any(not np.array_equal(scale, s) or not np.array_equal(zero, z) for s, z in others):
        return "its two sides have different numbers"
    if _is_in_a_row(model, pair, scale, zero.dtype):
        return "pairs in a row share its scale, to saturate where fewer bits end"
    if zero.dtype.name not in ("int8", "uint8", "int16", "uint16"):
        return f"its codes are {zero.dtype}"
    return Numbers(pair, scale, zero, _format(zero))


def _is_in_a_row(model: Model, pair: Pair, scale: Array, dtype: Any) -> bool:
    """True where a pair of that scale and another type gives its value or reads it: they have one meaning together."""
    before = [node for node in pair.quantize.inputs[0].inputs if node.op == "DequantizeLinear"]
    after = [reader for node in pair.dequantize for reader in node.outputs[0].outputs if reader.op == "QuantizeLinear"]
    read = (scale_and_zero_point(model, node, dtype) for node in (*before, *after))
    return any(other and np.array_equal(other[0], scale) and other[1].dtype != dtype for other in read)


def _format(zero_point: Array) -> TensorFormat:
    signed = zero_point.dtype.kind == "i"
    bits = 8 * zero_point.dtype.itemsize
    middle = 0 if signed else 1 << (bits - 1)
    return TensorFormat(n_bits=bits, signed=signed, symmetric=int(zero_point.reshape(-1)[0]) == middle)


def code_type(model: Model, quantize: gs.Node) -> Any:
    """The type of the codes: that of the zero point, else the attribute's, else uint8."""
    found = zero_point(model, quantize)
    return found.dtype if found is not None else to_numpy_dtype(quantize.attrs.get("output_dtype") or TensorProto.UINT8)


def scale_and_zero_point(model: Model, node: gs.Node, dtype: Any) -> tuple[Array, Array] | None:
    """Returns the numbers of a QuantizeLinear or DequantizeLinear, zeros of `dtype` where it has no zero point; None
    where the graph computes them."""
    scale = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if scale is None:
        return None
    values = model.array(scale)
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return values, np.zeros(values.shape, dtype)
    stored = constant_of(node.inputs[2])
    return None if stored is None else (values, model.array(stored))
