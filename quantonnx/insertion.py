"""Write the pairs: QuantizeLinear and DequantizeLinear appear, weights become integers.

Pairs are shared per tensor and format. Weight codes are computed while they are written, one weight at a time, so that
a large model never stands in memory twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.errors import ModelError
from quantonnx.formats import Parameters, Rounding, TensorFormat, dequantize, quantize
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.saturation import saturating_pairs
from quantonnx.sites import Site
from quantonnx.weights import to_onnx_dtype

Array = np.ndarray[Any, Any]

INT32_MAX = 2**31 - 1

CONTRIB_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_FIRST_OPSET = 10
_OPSETS = {"int16": 21, "uint16": 21, "int4": 21, "uint4": 21, "int2": 25, "uint2": 25}

_INTEGER_OPERATORS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)

_SHAPE_READERS = frozenset({"Shape", "Size"})
"""They read no number: given codes, they need no conversion, and leave the value before it to nobody else."""


def insert_pairs(
    model: Model,
    sites: tuple[Site, ...],
    parameters: Mapping[Site, Parameters],
    *,
    float_weights: bool,
    contrib: bool = False,
) -> None:
    """Changes `model` in place: a pair for each activation site, three in a row where its codes are fewer than those of
    their type, and constants of codes for weights and biases.

    With `float_weights`, weights stay float and get a Q/DQ pair instead: with the values that they have, or those of
    their codes where QuantizeLinear would find other codes. With `contrib`, pairs that ONNX has from opset 21 on are
    those of ONNX Runtime's domain, com.microsoft, as `needed_opset` counts on.
    """
    writer = _Writer(model, float_weights=float_weights, contrib=contrib)
    for site in sorted(sites, key=lambda site: not site.whole):  # readers that want their own pair leave the common one
        if site.on_activation:
            writer.activation(site, parameters[site])
        elif site.derived_from is None:
            writer.weight(site, parameters[site])
        else:
            writer.bias(site, parameters[site])
    model.sort()


class _Writer:
    def __init__(self, model: Model, *, float_weights: bool, contrib: bool) -> None:
        self.model = model
        self.editor = Rewriter(model)
        self.float_weights = float_weights
        self.contrib = contrib
        self.nodes = {node.name: node for node in model.graph.nodes}
        self.tensors = model.tensors()
        self.readers = _readers(model)
        self.floats: dict[str, gs.Variable] = {}

    def activation(self, site: Site, parameters: Parameters) -> None:
        """Puts a pair, or a row of them, on a value that is computed, or that enters the graph."""
        value = self.floats.get(site.tensor, self.tensors[site.tensor])
        edges = self.readers.get(site.tensor, ()) if site.whole else site.edges
        public = site.whole and self.editor.is_public(value) and bool(value.inputs)
        result = self.floats[site.tensor] = self._behind_output(value) if public else value
        for numbers in saturating_pairs(parameters, site.format):
            result = self._pair(result, site.tensor, numbers, site.format)
        codes = result.inputs[0].inputs[0]
        if public:
            self._rename_result(result, value)
            result = value
        of_shape = {edge for edge in edges if self.nodes[edge.node].op in _SHAPE_READERS}
        self._feed([edge for edge in edges if edge in of_shape], codes)
        self._feed([edge for edge in edges if edge not in of_shape], result)

    def weight(self, site: Site, parameters: Parameters) -> None:
        """Puts codes and a DequantizeLinear in the place of a weight, or of an underived bias, or a pair on it."""
        value, fmt = self.tensors[site.tensor], site.format
        compute = partial(_codes, self.model, value, parameters, fmt)
        if self.float_weights:
            result = self._pair(self._float_weight(value, compute, parameters, fmt), site.tensor, parameters, fmt)
        else:
            codes = self.editor.deferred(f"{site.tensor}_quantized", value.shape, fmt.onnx_dtype, compute)
            result = self._dequantize(codes, site.tensor, parameters, fmt)
        self._feed(site.edges, result)

    def _float_weight(
        self, value: gs.Constant, compute: Callable[[], Array], parameters: Parameters, fmt: TensorFormat
    ) -> gs.Constant:
        """The values of which QuantizeLinear makes the codes of the format: their own, or those of the codes."""
        if fmt.saturates_as_stored and fmt.rounding is Rounding.HALF_EVEN:
            return value
        return self.editor.deferred(
            f"{value.name}_rounded",
            value.shape,
            to_onnx_dtype(value.dtype),
            lambda: dequantize(compute(), parameters, fmt).astype(value.dtype),
        )

    def bias(self, site: Site, parameters: Parameters) -> None:
        """Puts the int32 codes of a derived bias and a DequantizeLinear in its place."""
        values = self.model.array(self.tensors[site.tensor]).astype(np.float64)
        codes = np.clip(np.rint(values / parameters.scale.astype(np.float64)), -INT32_MAX, INT32_MAX).astype(np.int32)
        stored = self.editor.constant(f"{site.tensor}_quantized", codes)
        self._feed(site.edges, self._dequantize(stored, site.tensor, parameters, site.format))

    def _feed(self, edges: Sequence[Edge], result: gs.Tensor) -> None:
        for edge in edges:
            self.editor.set_input(self.nodes[edge.node], edge.index, result)

    def _pair(self, value: gs.Tensor, name: str, parameters: Parameters, fmt: TensorFormat) -> gs.Variable:
        constants = self._constants(name, parameters)
        quantized = self._insert("QuantizeLinear", [value, *constants], name, fmt)
        quantized.dtype = parameters.zero_point.dtype
        result = self._insert("DequantizeLinear", [quantized, *constants], name, fmt)
        result.dtype = parameters.scale.dtype
        return result

    def _dequantize(self, codes: gs.Constant, name: str, parameters: Parameters, fmt: TensorFormat) -> gs.Variable:
        result = self._insert("DequantizeLinear", [codes, *self._constants(name, parameters)], name, fmt)
        result.dtype = parameters.scale.dtype
        return result

    def _insert(self, op: str, inputs: list[gs.Tensor], name: str, fmt: TensorFormat) -> gs.Variable:
        domain = CONTRIB_DOMAIN if self.contrib and _in_contrib(fmt) else ""
        return self.editor.insert(op, inputs, f"{name}_{op}", _axis_of(inputs[1], fmt), domain)

    def _constants(self, name: str, parameters: Parameters) -> tuple[gs.Constant, gs.Constant]:
        return (
            self.editor.constant(f"{name}_scale", parameters.scale),
            self.editor.constant(f"{name}_zero_point", parameters.zero_point),
        )

    def _behind_output(self, value: gs.Variable) -> gs.Variable:
        """Lets the producer of a graph output give an inner value, so that the output can come from the pair."""
        producer = value.inputs[0]
        inner = gs.Variable(f"{value.name}_float", dtype=value.dtype, shape=value.shape)
        index = next(i for i, output in enumerate(producer.outputs) if output is value)
        list.__setitem__(producer.outputs, index, inner)
        list.clear(value.inputs)
        list.append(inner.inputs, producer)
        return inner

    def _rename_result(self, result: gs.Variable, value: gs.Variable) -> None:
        node = result.inputs[0]
        list.__setitem__(node.outputs, 0, value)
        list.clear(result.inputs)
        list.append(value.inputs, node)


def _readers(model: Model) -> dict[str, list[Edge]]:
    found: dict[str, list[Edge]] = {}
    for node in model.graph.nodes:
        for index, value in enumerate(node.inputs):
            found.setdefault(value.name, []).append(Edge(node.name, index))
    return found


def _axis_of(scale: gs.Constant, fmt: TensorFormat) -> dict[str, Any]:
    if fmt.axis is None or not scale.shape:
        return {}
    return {"axis": fmt.axis} if fmt.group_size is None else {"axis": fmt.axis, "block_size": fmt.group_size}


def _codes(model: Model, value: gs.Constant, parameters: Parameters, fmt: TensorFormat) -> Array:
    return quantize(model.array(value), parameters, fmt, value.name)


def needed_opset(sites: tuple[Site, ...], *, contrib: bool = False) -> int:
    """Returns the lowest ONNX opset whose QuantizeLinear has these formats.

    10; 13 per axis; 19 for float8 and with scales that are not float32; 21 over 8 bits, per group and for int4 and
    uint4; 25 for int2 and uint2. With `contrib`, 16 and 4 bits without groups need none, being those of com.microsoft.
    """
    return max((_opset_of(site, contrib) for site in sites), default=_FIRST_OPSET)


def _opset_of(site: Site, contrib: bool) -> int:
    fmt = site.format
    if contrib and _in_contrib(fmt):
        return _FIRST_OPSET
    opset = _FIRST_OPSET if fmt.axis is None else 13
    if fmt.float8 or site.float_type != "float32":
        opset = 19
    return max(opset, 21 if fmt.group_size else 0, _OPSETS.get(fmt.dtype.name, 0))


def _in_contrib(fmt: TensorFormat) -> bool:
    """True for what com.microsoft has and ONNX has from opset 21 on only."""
    return fmt.group_size is None and _OPSETS.get(fmt.dtype.name) == 21


def integer_operators(model: Model) -> dict[str, int]:
    """Returns the operators that show a model to be quantized, with their number; empty for a float model."""
    found = (node.op for node in model.graph.nodes if node.op in _INTEGER_OPERATORS or node.op.startswith("QLinear"))
    return dict(Counter(found))


def refuse_quantized(model: Model, name: str) -> None:
    """Raises ModelError for a model that is quantized already."""
    found = integer_operators(model)
    if found:
        shown = ", ".join(f"{count} {op}" for op, count in found.items())
        raise ModelError(
            f"{name} is quantized already ({shown})",
            "use `quantonnx calibrate` for new scales, or start from the float model",
        )
