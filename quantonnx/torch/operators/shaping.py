"""Operators that only move data."""

from __future__ import annotations

from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, integers


def reshape(x: Tensor, shape: object, allowzero: bool = False) -> Tensor:
    """Returns `x` in another shape; 0 keeps a size, unless zeros are allowed."""
    sizes = integers(shape)
    return x.reshape([x.shape[i] if not size and not allowzero else size for i, size in enumerate(sizes)])


def _reshape(node: Node) -> Call:
    return Call(reshape, (0, 1), {"allowzero": bool(node.get("allowzero", 0))}, numbers=frozenset({1}))


def _flatten(node: Node) -> Call:
    return Call(flatten, (0,), {"axis": node.get("axis", 1)})


def flatten(x: Tensor, axis: int) -> Tensor:
    """Returns a matrix: the axes before `axis`, and those from it on."""
    axis = axis + x.ndim if axis < 0 else axis
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1)


OPERATORS: dict[str, Translation] = {"Reshape": _reshape, "Flatten": _flatten}
