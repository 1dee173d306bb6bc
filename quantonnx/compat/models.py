"""The encodings that stand in a model: the numbers of its Q/DQ pairs, whoever put them there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.compat.encodings import Array, Contents, Encoding, is_symmetric, numbers
from quantonnx.decisions import Decision
from quantonnx.errors import CalibrationError, ModelError
from quantonnx.formats import Parameters, TensorFormat
from quantonnx.inspecting import Pair, QuantizedConstant, find_pairs
from quantonnx.model import Model
from quantonnx.quantized import QuantizedModel
from quantonnx.recalibration.numbers import code_type, scale_and_zero_point

_FLOAT8 = "float8_e4m3fn"
_TYPES = {f"{'' if signed else 'u'}int{bits}": (bits, signed) for bits in (2, 4, 8, 16, 32) for signed in (True, False)}
_SCALES = ("float32", "float16", "bfloat16", "float64")
_CODES = "_quantized"


def model_encodings(source: str | Path | bytes | Model) -> Contents:
    """Returns the encodings of all activation pairs, weights and biases of a Q/DQ model.

    What cannot be said (computed scales, other types of codes) is left out with the reason; of two pairs on one tensor
    with different numbers the first counts. Raises ModelError for a model without a pair.
    """
    model = Model.read(source)
    found: dict[str, Encoding] = {}
    left: list[Decision] = []
    for name, result in _all(model):
        known = found.get(name)
        if isinstance(result, str):
            left.append(Decision(name, result))
        elif known is None:
            found[name] = result
        elif not _same(known, result):
            left.append(Decision(name, "it is quantized twice with different numbers: the first ones are taken"))
    if not found:
        reason = f"{left[0].name!r}: {left[0].reason}" if left else "quantize it first"
        raise ModelError("the model has no Q/DQ pair with constant numbers", reason)
    return Contents(tuple(found.values()), tuple(left))


def quantized_encodings(quantized: QuantizedModel) -> Contents:
    """Returns the encodings of a calibrated model before it is written, whose formats say more: bits under 8, narrow
    ranges. Raises CalibrationError before calibration."""
    if quantized.parameters is None:
        raise CalibrationError("the model is not calibrated", "call quantonnx.calibrate(quantized, samples) first")
    found: dict[str, Encoding] = {}
    for site in quantized.sites:
        if site.tensor not in found:
            parameter = not site.on_activation
            found[site.tensor] = _of_site(site.tensor, site.format, quantized.parameters[site], parameter=parameter)
    return Contents(tuple(found.values()))


def _of_site(name: str, fmt: TensorFormat, parameters: Parameters, *, parameter: bool) -> Encoding:
    bias = parameters.zero_point.dtype == np.int32
    scale, zero_point = (_shaped(values) for values in (parameters.scale, parameters.zero_point))
    return Encoding(
        name,
        n_bits=32 if bias else fmt.n_bits,
        signed=bias or fmt.signed,
        symmetric=bias or fmt.symmetric,
        narrow_range=fmt.narrow_range and not bias,
        floating=fmt.float8,
        axis=fmt.axis if scale.ndim else None,
        block_size=fmt.group_size,
        parameter=parameter,
        **numbers(scale, zero_point),
    )


def _all(model: Model) -> Iterator[tuple[str, Encoding | str]]:
    pairs = find_pairs(model)
    public = {output.name for output in model.graph.outputs}
    for pair in pairs.activations:
        name = _activation_name(pair, public)
        yield name, _encoding(model, name, pair.quantize, code_type(model, pair.quantize), parameter=False)
    for constant in pairs.constants:
        name = _constant_name(constant)
        yield name, _encoding(model, name, constant.node, _stored_type(model, constant), parameter=True)


def _activation_name(pair: Pair, public: set[str]) -> str:
    """The name before quantization: where a graph output comes from a pair, the value before it was renamed."""
    names = [str(node.outputs[0].name) for node in pair.dequantize]
    return next((name for name in names if name in public and pair.tensor.startswith(name)), pair.tensor)


def _constant_name(constant: QuantizedConstant) -> str:
    codes = constant.node.inputs[0]
    if codes.inputs and codes.inputs[0].op == "QuantizeLinear":
        return str(codes.inputs[0].inputs[0].name)
    return str(codes.name).removesuffix(_CODES)


def _stored_type(model: Model, constant: QuantizedConstant) -> Any:
    codes = constant.node.inputs[0]
    on_float = codes.inputs and codes.inputs[0].op == "QuantizeLinear"
    return code_type(model, codes.inputs[0]) if on_float else np.dtype(constant.stored.dtype)


def _encoding(model: Model, name: str, node: gs.Node, dtype: Any, *, parameter: bool) -> Encoding | str:
    """Returns what a QuantizeLinear or DequantizeLinear says, or why that has no place in an encoding."""
    stored = scale_and_zero_point(model, node, dtype)
    if stored is None:
        return "its scale is computed in the graph"
    kind = np.dtype(dtype).name
    if problem := _problem(node, *stored, kind):
        return problem
    bits, signed = _TYPES.get(kind, (8, True))
    scale, zero_point = (_shaped(values) for values in stored)
    found = numbers(scale, zero_point)
    encoding = Encoding(
        name,
        n_bits=bits,
        signed=signed,
        symmetric=kind == _FLOAT8 or is_symmetric(bits, signed=signed, zero_point=found["zero_point"]),
        floating=kind == _FLOAT8,
        axis=_axis(node, scale),
        block_size=node.attrs.get("block_size") or None,
        parameter=parameter,
        **found,
    )
    return encoding.problem() or encoding


def _problem(node: gs.Node, scale: Array, zero_point: Array, kind: str) -> str:
    """What keeps a node of somebody's model from being read, or nothing."""
    if kind not in _TYPES and kind != _FLOAT8:
        return f"its codes are {kind}"
    if scale.dtype.name not in _SCALES or not scale.size:
        return f"its scale is {scale.dtype.name} of the shape {scale.shape}"
    if zero_point.dtype.name not in {*_TYPES, _FLOAT8} or (zero_point.size != 1 and zero_point.shape != scale.shape):
        return f"its zero point is {zero_point.dtype.name} of the shape {zero_point.shape}"
    wrong = [key for key in ("axis", "block_size") if not isinstance(node.attrs.get(key, 0), int)]
    if wrong:
        return f"its attribute {wrong[0]} is no whole number"
    return f"its scale has {scale.ndim} axes" if scale.ndim > 1 and not node.attrs.get("block_size") else ""


def _shaped(values: Array) -> Array:
    return values.astype(np.float64).reshape(()) if values.size == 1 else values.astype(np.float64)


def _axis(node: gs.Node, scale: Array) -> int | None:
    if not scale.ndim:
        return None
    axis, shape = node.attrs.get("axis", 1), node.inputs[0].shape
    return int(axis % len(shape) if shape else axis)


def _same(one: Encoding, other: Encoding) -> bool:
    values = [(one.scale, other.scale), (one.zero_point, other.zero_point)]
    return (one.n_bits, one.signed, one.floating) == (other.n_bits, other.signed, other.floating) and all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in values
    )
