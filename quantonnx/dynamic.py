"""Dynamic quantization: an activation gets its scale from its own values, each time that the model runs.

DynamicQuantizeLinear → MatMulInteger or ConvInteger → Cast → Mul by both scales → Add of the bias: what ONNX has for it
since opset 11. Measured on ONNX Runtime 1.31: the linear ones become DynamicQuantizeMatMul or MatMulIntegerToFloat, 2.6
to 3.5 times as fast as float with int8 weights; ConvInteger saves size only, it is slower than a float Conv.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.dynamic_formats import INTEGER_OPERATORS, activation_refusal, refusal
from quantonnx.editing import Rewriter
from quantonnx.errors import ConfigError, TargetError
from quantonnx.formats import Parameters, TensorFormat, quantize
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.sites import Site

Array = np.ndarray[Any, Any]

NEEDED_OPSET = 11
"""The first one that has DynamicQuantizeLinear."""


def insert_dynamic(
    model: Model, activations: Iterable[Site], weights: Iterable[Site], parameters: Mapping[Site, Parameters]
) -> frozenset[Edge]:
    """Changes `model` in place: every Conv, Gemm and MatMul that reads one of `activations` computes on codes.

    `weights` are the sites among which those of the nodes are, `parameters` has their numbers; biases stay float.
    Returns the inputs of all replaced nodes, at which nothing is left to quantize: the names of the nodes stay, but
    belong to the integer operators. `Model.sort` must follow. Raises ConfigError for a node whose weight is not
    quantized or whose values are not float32, and TargetError for a format that the operators do not have.
    """
    writer = _Writer(model, weights, parameters)
    return frozenset(edge for site in activations for edge in writer.quantize_readers(site))


@dataclass(frozen=True)
class _Activation:
    codes: gs.Variable
    scale: gs.Variable
    zero_point: gs.Variable


class _Writer:
    def __init__(self, model: Model, weights: Iterable[Site], parameters: Mapping[Site, Parameters]) -> None:
        self.model = model
        self.editor = Rewriter(model)
        self.parameters = parameters
        self.nodes = {node.name: node for node in model.graph.nodes}
        self.tensors = model.tensors()
        self.weights = {edge: site for site in weights for edge in site.edges}
        self.activations: dict[str, _Activation] = {}
        self.stored: dict[tuple[Site, bool, bool], gs.Constant] = {}

    def quantize_readers(self, site: Site) -> list[Edge]:
        """Replaces the nodes that read a tensor; one DynamicQuantizeLinear serves them all."""
        _check_activation(site)
        pairs = [(self.nodes[edge.node], self._weight_of(site, edge)) for edge in site.edges]
        activation = self._activation(site.tensor)
        gone = [Edge(node.name, index) for node, _ in pairs for index in range(len(node.inputs))]
        for node, weight in pairs:
            self._replace(node, weight, activation)
        return gone

    def _weight_of(self, site: Site, edge: Edge) -> Site:
        node, weight = self.nodes[edge.node], self.weights.get(Edge(edge.node, 1))
        if edge.index != 0 or weight is None:
            raise ConfigError(
                f"{site.tensor!r} is dynamic, but {node.op} {node.name!r} has no quantized weight to multiply it with",
                "quantize its weight, or leave out dynamic there",
            )
        _check_weight(node, weight)
        return weight

    def _activation(self, tensor: str) -> _Activation:
        if tensor not in self.activations:
            self.activations[tensor] = self._measured(tensor)
        return self.activations[tensor]

    def _measured(self, tensor: str) -> _Activation:
        name = f"{tensor}_DynamicQuantizeLinear"
        codes = self.editor.insert("DynamicQuantizeLinear", [self.tensors[tensor]], name)
        node = codes.inputs[0]
        scale, zero_point = (self.editor.add_output(node, f"{name}_{part}") for part in ("scale", "zero_point"))
        codes.dtype = zero_point.dtype = np.dtype(np.uint8)
        scale.dtype = np.dtype(np.float32)
        return _Activation(codes, scale, zero_point)

    def _replace(self, node: gs.Node, weight: Site, activation: _Activation) -> None:
        """Lets the codes be multiplied in place of the values; the result keeps its name."""
        name, output, bias = node.name, node.outputs[0].name, self._bias(node)
        codes = self._transposed(activation.codes, output) if node.attrs.get("transA", 0) else activation.codes
        stored, zero_point, scale = self._weight(node, weight)
        attrs = dict(node.attrs) if node.op == "Conv" else {}
        inputs = [codes, stored, activation.zero_point, zero_point]
        total = self._insert(INTEGER_OPERATORS[node.op], inputs, output, np.int32, attrs)
        integer = total.inputs[0]
        values = self._insert("Cast", [total], output, np.float32, {"to": TensorProto.FLOAT})
        product = self._insert("Mul", [activation.scale, scale], f"{output}_scale", np.float32)
        result = self._insert("Mul", [values, product], output, np.float32)
        if bias is not None:
            result = self._insert("Add", [result, bias], output, np.float32)
        self.editor.take_output(result.inputs[0], node)
        integer.name = name

    def _weight(self, node: gs.Node, site: Site) -> tuple[gs.Constant, gs.Constant, gs.Constant]:
        """Returns codes, zero point and scale, which takes in alpha."""
        numbers, unsigned = self.parameters[site], node.op == "Conv"
        zero_point = _as_unsigned(numbers.zero_point) if unsigned else numbers.zero_point
        if not np.ptp(zero_point):
            zero_point = zero_point.reshape(-1)[0]
        scale = numbers.scale * np.float32(node.attrs.get("alpha", 1.0))
        if node.op == "Conv" and scale.ndim:
            scale = scale.reshape(_per_channel(node))
        return (
            self._codes(site, unsigned=unsigned, transposed=bool(node.attrs.get("transB", 0))),
            self.editor.constant(f"{site.tensor}_zero_point", np.asarray(zero_point)),
            self.editor.constant(f"{site.tensor}_scale", np.asarray(scale, np.float32)),
        )

    def _codes(self, site: Site, *, unsigned: bool, transposed: bool) -> gs.Constant:
        """Returns the codes of a weight, which all nodes share that want them in the same form."""
        value, key = self.tensors[site.tensor], (site, unsigned, transposed)
        if key not in self.stored:
            shape = value.shape[::-1] if transposed else value.shape
            kind = TensorProto.UINT8 if unsigned else site.format.onnx_dtype
            numbers = self.parameters[site]
            compute = partial(_codes, self.model, value, numbers, site.format, unsigned=unsigned, transposed=transposed)
            self.stored[key] = self.editor.deferred(f"{site.tensor}_quantized", shape, kind, compute)
        return self.stored[key]

    def _bias(self, node: gs.Node) -> gs.Tensor | None:
        """Returns what is added in the end, in the shape and with the factor that the float operator gives it."""
        if len(node.inputs) < 3 or not node.inputs[2].name:
            return None
        bias, beta = node.inputs[2], node.attrs.get("beta", 1.0)
        if node.op == "Conv":
            return self._changed("Reshape", bias, np.array(_per_channel(node), np.int64))
        return bias if beta == 1.0 else self._changed("Mul", bias, np.asarray(beta, np.float32))

    def _changed(self, op: str, bias: gs.Tensor, by: Array) -> gs.Tensor:
        if not isinstance(bias, gs.Constant):
            return self._insert(op, [bias, self.editor.constant(f"{bias.name}_{op}_by", by)], bias.name, np.float32)
        values = self.model.array(bias)
        return self.editor.constant(f"{bias.name}_{op}", values.reshape(by) if op == "Reshape" else values * by)

    def _transposed(self, codes: gs.Variable, name: str) -> gs.Variable:
        return self._insert("Transpose", [codes], f"{name}_codes", np.uint8, {"perm": [1, 0]})

    def _insert(
        self, op: str, inputs: list[gs.Tensor], name: str, dtype: Any, attrs: dict[str, Any] | None = None
    ) -> gs.Variable:
        output = self.editor.insert(op, inputs, f"{name}_{op}", attrs)
        output.dtype = np.dtype(dtype)
        return output


def _codes(
    model: Model, value: gs.Constant, numbers: Parameters, fmt: TensorFormat, *, unsigned: bool, transposed: bool
) -> Array:
    codes = quantize(model.array(value), numbers, fmt, value.name)
    if unsigned:
        codes = _as_unsigned(codes)
    return codes.T if transposed else codes


def _as_unsigned(codes: Array) -> Array:
    """Returns int8 codes, or their zero point, as the uint8 ones of the same values.

    ConvInteger reads int8 weights only from ONNX Runtime 1.24 on, and is five times slower with them there.
    """
    return codes if codes.dtype == np.uint8 else codes.view(np.uint8) ^ np.uint8(128)


def _per_channel(node: gs.Node) -> tuple[int, ...]:
    """Returns the shape in which one number per output channel meets the result of a Conv."""
    return (1, -1, *[1] * (len(node.inputs[1].shape) - 2))


def _check_activation(site: Site) -> None:
    if site.float_type != "float32":
        raise ConfigError(
            f"{site.tensor!r} is {site.float_type}, DynamicQuantizeLinear takes float32",
            "leave out dynamic, or start from the float32 model",
        )
    if site.whole:
        raise ConfigError(f"{site.tensor!r} is the output of an operator", "say dynamic of the inputs that read it")
    if reason := activation_refusal(site.format):
        raise TargetError(f"{site.tensor!r}: {reason}")


def _check_weight(node: gs.Node, site: Site) -> None:
    if reason := refusal(node.op, site.format):
        raise TargetError(f"{node.op} {node.name!r}: {reason}")
    shape, axis = node.inputs[1].shape, site.format.axis
    if axis is None:
        return
    wanted = _output_axis(node)
    if axis % len(shape) != wanted or len(shape) < 2:
        hint = f"use axis: {wanted}" if len(shape) > 1 else "use per_channel: false"
        raise TargetError(f"{node.op} {node.name!r}: its weight has scales along axis {axis}, not per output", hint)
    if len(shape) > 2 and node.op == "MatMul" and not site.format.symmetric:
        raise TargetError(f"MatMul {node.name!r}: its weight has one zero point per matrix", "use symmetric: true")


def _output_axis(node: gs.Node) -> int:
    if node.op == "Conv" or node.attrs.get("transB", 0):
        return 0
    return len(node.inputs[1].shape) - 1
