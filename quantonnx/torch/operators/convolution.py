"""Convolutions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, **settings: Any) -> Tensor:
    """Returns the convolution of x [N, C, …] with weight [M, C/group, …]."""
    return _CONVOLUTIONS[weight.ndim - 2](x, weight, bias, **settings)


def _convolve(node: Node) -> Call:
    pads = node.get("pads", [0, 0, 0, 0])
    half = len(pads) // 2
    settings = {
        "stride": tuple(node.get("strides", [1] * half)),
        "padding": tuple(pads[:half]),
        "dilation": tuple(node.get("dilations", [1] * half)),
        "groups": node.get("group", 1),
    }
    return Call(convolve, (0, 1, 2), settings)


OPERATORS: dict[str, Translation] = {"Conv": _convolve}
