"""Write the pairs: QuantizeLinear and DequantizeLinear appear, weights become integers.

Pairs are shared per tensor and format. Weight codes are computed while they are written, one weight at a time, so that
a large model never stands in memory twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.errors import ModelError
from quantonnx.formats import Parameters, TensorFormat, quantize
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.sites import Site

INT32_MAX = 2**31 - 1

_INTEGER_OPERATORS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)

_SHAPE_READERS = frozenset({"Shape", "Size"})
"""They read no number: given codes, they need no conversion, and leave the value before it to nobody else."""


def insert_pairs(
    model: Model, sites: tuple[Site, ...], parameters: Mapping[Site, Parameters], *, float_weights: bool
) -> None:
    """Changes `model` in place: one pair for each activation site, integer constants for weights and biases.

    With `float_weights`, weights keep their float values and get a Q/DQ pair instead.
    """
    writer = _Writer(model, float_weights=float_weights)
    for site in sites:
        if site.on_activation:
            writer.activation(site, parameters[site])
        elif site.is_weight:
            writer.weight(site, parameters[site])
        else:
            writer.bias(site, parameters[site])
    model.sort()


class _Writer:
    def __init__(self, model: Model, *, float_weights: bool) -> None:
        self.model = model
        self.editor = Rewriter(model)
        self.float_weights = float_weights
        self.nodes = {node.name: node for node in model.graph.nodes}
        self.tensors = model.tensors()
        self.readers = _readers(model)

    def activation(self, site: Site, parameters: Parameters) -> None:
        """Puts a pair on a value that is computed, or that enters the graph."""
        value = self.tensors[site.tensor]
        edges = self.readers.get(site.tensor, ()) if site.whole else site.edges
        public = site.whole and self.editor.is_public(value) and bool(value.inputs)
        source = self._behind_output(value) if public else value
        result = self._pair(source, site.tensor, parameters, site.format)
        codes = result.inputs[0].inputs[0]
        if public:
            self._rename_result(result, value)
            result = value
        of_shape = {edge for edge in edges if self.nodes[edge.node].op in _SHAPE_READERS}
        self._feed([edge for edge in edges if edge in of_shape], codes)
        self._feed([edge for edge in edges if edge not in of_shape], result)

    def weight(self, site: Site, parameters: Parameters) -> None:
        """Puts the codes of a weight and a DequantizeLinear in its place, or a pair on the float weight."""
        value = self.tensors[site.tensor]
        if self.float_weights:
            result = self._pair(value, site.tensor, parameters, site.format)
        else:
            compute = partial(_codes, self.model, value, parameters, site.format)
            codes = self.editor.deferred(f"{site.tensor}_quantized", value.shape, site.format.onnx_dtype, compute)
            result = self._dequantize(codes, site.tensor, parameters, site.format)
        self._feed(site.edges, result)

    def bias(self, site: Site, parameters: Parameters) -> None:
        """Puts the int32 codes of a bias and a DequantizeLinear in its place."""
        values = self.model.array(self.tensors[site.tensor]).astype(np.float64)
        codes = np.clip(np.rint(values / parameters.scale.astype(np.float64)), -INT32_MAX, INT32_MAX).astype(np.int32)
        stored = self.editor.constant(f"{site.tensor}_quantized", codes)
        self._feed(site.edges, self._dequantize(stored, site.tensor, parameters, site.format))

    def _feed(self, edges: Sequence[Edge], result: gs.Tensor) -> None:
        for edge in edges:
            self.editor.set_input(self.nodes[edge.node], edge.index, result)

    def _pair(self, value: gs.Tensor, name: str, parameters: Parameters, fmt: TensorFormat) -> gs.Variable:
        scale, zero_point = self._constants(name, parameters)
        attrs = _axis_of(parameters, fmt)
        quantized = self.editor.insert(
            "QuantizeLinear", [value, scale, zero_point], f"{name}_QuantizeLinear", dict(attrs)
        )
        quantized.dtype = fmt.dtype
        result = self.editor.insert(
            "DequantizeLinear", [quantized, scale, zero_point], f"{name}_DequantizeLinear", attrs
        )
        result.dtype = scale.dtype
        return result

    def _dequantize(self, codes: gs.Constant, name: str, parameters: Parameters, fmt: TensorFormat) -> gs.Variable:
        scale, zero_point = self._constants(name, parameters)
        inputs = [codes, scale, zero_point]
        result = self.editor.insert("DequantizeLinear", inputs, f"{name}_DequantizeLinear", _axis_of(parameters, fmt))
        result.dtype = parameters.scale.dtype
        return result

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


def _axis_of(parameters: Parameters, fmt: TensorFormat) -> dict[str, Any]:
    return {"axis": fmt.axis} if fmt.axis is not None and parameters.scale.ndim else {}


def _codes(model: Model, value: gs.Constant, parameters: Parameters, fmt: TensorFormat) -> np.ndarray[Any, Any]:
    return quantize(model.array(value), parameters, fmt)


def needed_opset(sites: tuple[Site, ...]) -> int:
    """Returns the lowest ONNX opset whose QuantizeLinear has these formats: 10, 13 per axis, 19 with scales that are
    not float32, 21 over 8 bits."""
    formats = [site.format for site in sites]
    if any(fmt.n_bits > 8 for fmt in formats):
        return 21
    if any(site.float_type != "float32" for site in sites):
        return 19
    return 13 if any(fmt.axis is not None for fmt in formats) else 10


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
