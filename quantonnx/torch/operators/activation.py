"""Activations, and softmax in both of its meanings: over one axis, and over all axes from one on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation
from quantonnx.torch.operators.shaping import flatten

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Returns x held between two bounds, numbers or scalar tensors; the upper one prevails."""
    if isinstance(low, float) and isinstance(high, float) and low <= high:
        return functional.hardtanh(x, low, high)  # whose gradient takes one pass over memory, clamp's four
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return x if low is None and high is None else x.clamp(low, high)
    x = x if low is None else torch.clamp_min(x, _scalar(low))
    return x if high is None else torch.clamp_max(x, _scalar(high))


def _scalar(bound: Any) -> Any:
    return bound.reshape(()) if isinstance(bound, Tensor) else bound


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Returns x, times the slope where it is below zero; the slope is spread to the shape of x."""
    channels = slope.ndim == x.ndim - 1 and x.ndim > 1 and slope.numel() == slope.shape[0] == x.shape[1]
    if x.is_floating_point() and (channels or slope.numel() == 1):
        return functional.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


def elu(x: Tensor, alpha: float, gamma: float = 1.0) -> Tensor:
    """Returns gamma·x above zero and gamma·alpha·(eˣ − 1) below."""
    found = functional.elu(x, alpha)
    return found if gamma == 1 else found * gamma


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """Returns x where it is above alpha, else 0."""
    return torch.where(x > alpha, x, 0)


def softplus(x: Tensor) -> Tensor:
    """Returns ln(1 + eˣ)."""
    return functional.softplus(x, threshold=50.0 if x.dtype == torch.float64 else 20.0)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Returns alpha·x + beta, held between 0 and 1."""
    return (x * alpha + beta).clamp(0, 1)


def hard_swish(x: Tensor) -> Tensor:
    """Returns x times its hard sigmoid of slope 1/6."""
    return functional.hardswish(x)


def swish(x: Tensor, alpha: float) -> Tensor:
    """Returns x·σ(alpha·x)."""
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def shrink(x: Tensor, bias: float, threshold: float) -> Tensor:
    """Returns x moved towards zero by the bias where it is beyond the threshold, else 0."""
    found = torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, 0))
    return found.to(x.dtype)


def softmax(x: Tensor, axis: int) -> Tensor:
    """Returns e^x over its sum along an axis."""
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, axis: int) -> Tensor:
    """Returns the logarithm of the softmax along an axis."""
    return torch.log_softmax(x, axis)


def hardmax(x: Tensor, axis: int) -> Tensor:
    """Returns 1 at the first of the largest values along an axis, else 0."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


_OVER_AN_AXIS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "Hardmax": hardmax,
}


def over_the_rest(x: Tensor, op: str, axis: int) -> Tensor:
    """Returns the operator's result over all axes from `axis` on together, as ONNX had it below opset 13."""
    if axis in (-1, x.ndim - 1):
        return _OVER_AN_AXIS[op](x, -1)
    return _OVER_AN_AXIS[op](flatten(x, axis), 1).reshape(x.shape)


def _clip(node: Node) -> Call:
    if node.opset < 11:
        return Call(clip, (0,), {"low": node.get("min"), "high": node.get("max")})
    return Call(clip, (0, 1, 2), numbers=frozenset({1, 2}))


def _over_an_axis(node: Node) -> Call:
    if node.opset < 13:
        return Call(over_the_rest, (0,), {"op": node.op, "axis": node.get("axis", 1)})
    return Call(_OVER_AN_AXIS[node.op], (0,), {"axis": node.get("axis", -1)})


def _gelu(node: Node) -> Call:
    return Call(functional.gelu, (0,), {"approximate": node.get("approximate", "none")})


def _with(function: Callable[..., Any], **names: tuple[str, float]) -> Translation:
    """Returns the translation to a function whose settings are attributes: their ONNX names and defaults."""

    def translate(node: Node) -> Call:
        return Call(function, (0,), {key: float(node.get(name, value)) for key, (name, value) in names.items()})

    return translate


OPERATORS: dict[str, Translation] = {
    "Clip": _clip,
    "Relu": lambda node: Call(torch.relu),
    "Sigmoid": lambda node: Call(torch.sigmoid),
    "LeakyRelu": _with(functional.leaky_relu, negative_slope=("alpha", 0.01)),
    "PRelu": lambda node: Call(prelu),
    "Elu": _with(elu, alpha=("alpha", 1.0)),
    "Selu": _with(elu, alpha=("alpha", _SELU_ALPHA), gamma=("gamma", _SELU_GAMMA)),
    "Celu": _with(functional.celu, alpha=("alpha", 1.0)),
    "ThresholdedRelu": _with(thresholded_relu, alpha=("alpha", 1.0)),
    "Softplus": lambda node: Call(softplus),
    "Softsign": lambda node: Call(functional.softsign),
    "HardSigmoid": _with(hard_sigmoid, alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "HardSwish": lambda node: Call(hard_swish),
    "Mish": lambda node: Call(functional.mish),
    "Gelu": _gelu,
    "Swish": _with(swish, alpha=("alpha", 1.0)),
    "Shrink": _with(shrink, bias=("bias", 0.0), threshold=("lambd", 0.5)),
    "Softmax": _over_an_axis,
    "LogSoftmax": _over_an_axis,
    "Hardmax": _over_an_axis,
}
