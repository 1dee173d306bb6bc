"""Operators that change the type of values, and those that hand them on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantonnx.torch.dtypes import torch_dtype, torch_dtype_of
from quantonnx.torch.node import Call, Node, Translation

_RATIO_AS_INPUT = 12


class Dropout(nn.Module):
    """Sets a share `ratio` of the elements to zero in training, and scales the others up; else hands them on.

    `always` is what the file's own switch says. With `masked` it returns where elements are kept too.
    """

    def __init__(self, ratio: float, *, always: bool = False, masked: bool = False) -> None:
        super().__init__()
        self.ratio, self.always, self.masked = ratio, always, masked

    def forward(self, x: Tensor, ratio: Any = None, always: Any = None) -> Any:
        """Returns `x` with elements dropped; a `ratio` and a switch that are computed take the place of fixed ones."""
        share = self.ratio if ratio is None else float(ratio)
        if not (self.training or self.always or (always is not None and bool(always))) or not share:
            return (x, torch.ones_like(x, dtype=torch.bool)) if self.masked else x
        if not self.masked:
            return functional.dropout(x, share)
        kept = torch.rand_like(x) >= share
        return x * kept / (1 - share), kept

    def extra_repr(self) -> str:
        """The numbers that print(module) shows."""
        return f"ratio={self.ratio}"


def identity(x: Tensor) -> Tensor:
    """Returns what it gets."""
    return x


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `x` in another type; what is not zero is true."""
    return x.to(dtype)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """Returns `x` in the type of another tensor."""
    return x.to(like.dtype)


def _cast(node: Node) -> Call:
    return Call(cast, (0,), {"dtype": torch_dtype_of(node.get("to"))})


def _cast_like(node: Node) -> Call:
    wanted = node.type_of(1)
    if wanted is not None:
        return Call(cast, (0,), {"dtype": torch_dtype(wanted)})
    return Call(cast_like, (0, 1))


def _dropout(node: Node) -> Call:
    masked = len(node.wanted) > 1 and node.wanted[1]
    if node.opset < _RATIO_AS_INPUT:
        return Call(Dropout(node.get("ratio", 0.5), masked=masked), (0,))
    ratio = float(node.constants[1]) if 1 in node.constants else 0.5
    always = bool(node.constants[2]) if 2 in node.constants else False
    computed = [place if node.has(place) and place not in node.constants else -1 for place in (1, 2)]
    return Call(Dropout(ratio, always=always, masked=masked), (0, *computed))


OPERATORS: dict[str, Translation] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Identity": lambda node: Call(identity),
}
