"""Normalization by the statistics of the values at hand; what keeps running statistics is a layer of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation
from quantonnx.torch.operators.windows import padded


def layer_norm(x: Tensor, scale: Tensor | None, bias: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """Returns x less its mean, over its deviation, along the axes from `axis` on; scale and bias may be spread."""
    shape = x.shape[axis:]
    if all(value is None or value.shape == shape for value in (scale, bias)):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    found = functional.layer_norm(x, shape, None, None, epsilon)
    found = found if scale is None else found * scale
    return found if bias is None else found + bias


def layer_norm_with_statistics(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what layer_norm does, the means, and one over the deviations, both in float32 or more."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    return layer_norm(x, scale, bias, axis, epsilon), mean, torch.rsqrt(variance + epsilon)


def rms_norm(x: Tensor, scale: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """Returns x over the root of its mean square along the axes from `axis` on, times the scale."""
    shape = x.shape[axis:]
    if scale is None or scale.shape == shape:
        return functional.rms_norm(x, shape, scale, epsilon)
    return functional.rms_norm(x, shape, None, epsilon) * scale


def group_norm(x: Tensor, scale: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    """Returns x [N, C, …] normalized in groups of channels; scale and bias have a number for each channel or group."""
    channels = x.shape[1]
    each = channels // scale.shape[0]
    if each > 1:
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return torch.group_norm(x, groups, scale, bias, epsilon)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Returns x [N, C, …] with each channel of each sample normalized."""
    return torch.group_norm(x, x.shape[1], scale, bias, epsilon)


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Returns x [N, C, …] over (bias + alpha·mean)^beta, the mean being of the squares of `size` channels."""
    squares = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
    before = (size - 1) // 2
    wide = padded(squares, ((before, size - 1 - before), (0, 0)))
    means = functional.avg_pool2d(wide, (size, 1), stride=1).reshape(x.shape)
    return x / (means * alpha + bias) ** beta


def lp_normalize(x: Tensor, axis: int, order: int) -> Tensor:
    """Returns x over its norm along an axis, and 0 where that is 0."""
    norm = torch.linalg.vector_norm(x, order, axis, keepdim=True)
    return x / torch.where(norm == 0, 1, norm)


def mean_variance_normalize(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Returns x less its mean, over its deviation, along these axes."""
    variance, mean = torch.var_mean(x, tuple(axes), correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)


def _layer_norm(node: Node) -> Call:
    settings = {"axis": node.get("axis", -1), "epsilon": node.get("epsilon", 1e-5)}
    if len(node.wanted) == 1:
        return Call(layer_norm, (0, 1, 2), settings)
    return Call(layer_norm_with_statistics, (0, 1, 2), settings)


def _rms_norm(node: Node) -> Call:
    return Call(rms_norm, (0, 1), {"axis": node.get("axis", -1), "epsilon": node.get("epsilon", 1e-5)})


def _group_norm(node: Node) -> Call:
    return Call(group_norm, (0, 1, 2), {"groups": node.get("num_groups"), "epsilon": node.get("epsilon", 1e-5)})


def _local_response_norm(node: Node) -> Call:
    settings = {name: float(node.get(name, value)) for name, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))}
    return Call(local_response_norm, (0,), {"size": node.get("size"), **settings})


def _instance_norm(node: Node) -> Call:
    return Call(instance_norm, (0, 1, 2), {"epsilon": node.get("epsilon", 1e-5)})


def _lp_normalize(node: Node) -> Call:
    return Call(lp_normalize, (0,), {"axis": node.get("axis", -1), "order": node.get("p", 2)})


def _mean_variance_normalize(node: Node) -> Call:
    return Call(mean_variance_normalize, (0,), {"axes": tuple(node.get("axes", (0, 2, 3)))})


OPERATORS: dict[str, Translation] = {
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LpNormalization": _lp_normalize,
    "MeanVarianceNormalization": _mean_variance_normalize,
}
