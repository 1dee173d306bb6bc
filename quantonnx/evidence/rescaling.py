"""The float model with inputs scaled as a quantized file has them: its inner values and weights can then be compared.

`scale_inputs` divides channels in front of linear layers, by what samples showed, and multiplies the weights behind.
Results stay as they are, but a weight that is 6 times as large has no error: the factors are read from the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.algorithms.input_scaling import divide
from quantonnx.algorithms.norm_readers import NormReaders, Operand, input_axis, is_linear, norm_readers
from quantonnx.algorithms.operand_scaling import OperandScaler
from quantonnx.inspecting import constant_of
from quantonnx.model import Model

Array = np.ndarray[Any, Any]

_SAME = 1e-4


def rescaled(exact: Model, quantized: Model) -> Model:
    """Returns the fused float model with the factors in front of its linear layers, or in norms, that a quantized
    version of it has; results are the same."""
    twin = exact.copy()
    scaler = OperandScaler(twin)
    nodes = {node.name: node for node in twin.graph.nodes}
    norms = [norm for norm in norm_readers(twin) if isinstance(norm, NormReaders)]
    for node in (node for node in quantized.graph.nodes if node.op == "Mul" and node.name not in nodes):
        factors = constant_of(node.inputs[1])
        layers = [nodes[reader.name] for reader in _readers(node.outputs[0]) if reader.name in nodes]
        if factors is not None and layers and all(is_linear(layer, layers[0].inputs[0]) for layer in layers):
            weights = [Operand(layer.inputs[1], ((layer, 1),), input_axis(layer)) for layer in layers]
            values = quantized.array(factors).astype(np.float32)
            channels = {weight.constant.shape[weight.axis] for weight in weights}
            if channels == {values.size} and np.isfinite(values).all() and values.all():
                divide(scaler, weights, 1 / values)
    theirs = {node.name: node for node in quantized.graph.nodes}
    for norm in norms:
        scale = _scale_of(norm, exact, quantized, theirs)
        if scale is not None:
            divide(scaler, norm.weights, scale, norm)
    twin.sort()
    return twin


def _readers(value: gs.Tensor) -> Iterator[gs.Node]:
    """The operators that read a value, or what pairs make of it."""
    for reader in value.outputs:
        if reader.op in ("QuantizeLinear", "DequantizeLinear"):
            yield from _readers(reader.outputs[0])
        else:
            yield reader


def _scale_of(norm: NormReaders, exact: Model, quantized: Model, theirs: dict[str, gs.Node]) -> Array | None:
    """What the channels of a norm were divided by; None where its factors are as they were."""
    node, index = norm.factors[0].edges[0]
    held = constant_of(theirs[node.name].inputs[index]) if node.name in theirs else None
    before = exact.array(norm.factors[0].constant).reshape(-1).astype(np.float32)
    after = None if held is None else quantized.array(held).reshape(-1).astype(np.float32)
    if after is None or after.shape != before.shape or np.allclose(before, after, rtol=_SAME):
        return None
    alive = (before != 0) & (after != 0)
    return np.divide(before, after, out=np.ones_like(before), where=alive)
