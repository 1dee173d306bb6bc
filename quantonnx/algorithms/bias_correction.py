"""Bias correction: takes the mean error of rounded weights out of an operator's bias.

Rounding a weight by ΔW shifts the mean of every output channel by ΔW · E[x]. Calibration knows E[x] per input channel,
so the shift is subtracted from the bias, at no cost at run time (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.2, with E[x] measured and not derived from batch normalization).
The means are those of the float model; the border that padding adds is neglected. On three trained networks, means of
what quantized operators give, and exact borders, make less than 1 dB of difference, either way. MatMul is left alone:
the mean over the tokens of a text is that of padding and of a few tokens with huge values, and correcting by it loses
up to 15 dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.formats import Parameters, dequantize, quantize
from quantonnx.model import Model, constant
from quantonnx.sites import Site

Array = NDArray[Any]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def means_needed(model: Model, sites: tuple[Site, ...]) -> dict[str, bool]:
    """Returns the activations whose channel means correct a bias, with whether they have spatial axes."""
    return {node.inputs[0].name: node.op in _CONVOLUTIONS for _, node in _operators(model, sites)}


def means_possible(model: Model) -> dict[str, bool]:
    """Returns the activations whose channel means any configuration could need, with whether they have spatial axes."""
    return {
        node.inputs[0].name: node.op in _CONVOLUTIONS
        for node in model.graph.nodes
        if _has_own_bias(node) and isinstance(node.inputs[1], gs.Constant) and isinstance(node.inputs[0], gs.Variable)
    }


def correct_biases(
    model: Model, sites: tuple[Site, ...], parameters: Mapping[Site, Parameters], means: Mapping[str, Array]
) -> Model:
    """Returns a copy of the fused model with corrected biases.

    `means` holds E[x] by activation, float64 [channels]; an operator whose activation is not in it is left alone.
    """
    corrected = model.copy()
    values = corrected.tensors()
    for site, node in _operators(corrected, sites):
        mean = means.get(node.inputs[0].name)
        if mean is None or site not in parameters:
            continue
        bias: gs.Constant = node.inputs[2]
        shift = _shift(node, corrected.array(values[site.tensor]), site, parameters[site], mean)
        if np.all(np.isfinite(shift)):
            old = corrected.array(bias)
            bias._values = constant(bias.name, (old - shift).astype(old.dtype))._values
    return corrected


def _operators(model: Model, sites: tuple[Site, ...]) -> Iterator[tuple[Site, gs.Node]]:
    nodes = {node.name: node for node in model.graph.nodes}
    values = model.tensors()
    for site in sites:
        if not site.is_weight or len(values[site.tensor].outputs) != 1:
            continue
        node = nodes[site.edges[0].node]
        if _has_own_bias(node):
            yield site, node


def _has_own_bias(node: gs.Node) -> bool:
    if node.domain or node.op not in _CONVOLUTIONS | {"Gemm"} or len(node.inputs) < 3:
        return False
    if (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0), node.attrs.get("transA", 0)) != (1.0, 1.0, 0):
        return False
    bias = node.inputs[2]
    return isinstance(bias, gs.Constant) and len(bias.outputs) == 1 and len(bias.shape) == 1


def _shift(node: gs.Node, weight: Array, site: Site, parameters: Parameters, mean: Array) -> Array:
    """E[ΔW x] of each output channel, float64 [outputs]."""
    codes = quantize(weight, parameters, site.format, site.tensor)
    error = dequantize(codes, parameters, site.format).astype(np.float64) - weight
    if node.op == "Gemm":
        return np.asarray(error @ mean if node.attrs.get("transB", 0) else mean @ error)
    groups = node.attrs.get("group", 1)
    by_input = error.reshape(groups, -1, *error.shape[1:2], prod(error.shape[2:])).sum(axis=-1)
    if node.op == "ConvTranspose":  # its weights are [inputs, outputs], and strides share them out among the results
        by_input = by_input.transpose(0, 2, 1) / prod(node.attrs.get("strides", [1]))
    return np.asarray(np.einsum("goi,gi->go", by_input, mean.reshape(groups, -1)).reshape(-1))
