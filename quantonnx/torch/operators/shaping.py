"""Operators that give the same elements another shape, put values together and cut them apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, integers

_AXES_AS_INPUT, _SLICE_AS_INPUT, _BATCHED_FLATTEN = 13, 10, 11


def reshape(x: Tensor, shape: Any, allowzero: bool = False) -> Tensor:
    """Returns `x` in another shape; 0 keeps a size, unless zeros are allowed."""
    sizes = integers(shape)
    return x.reshape([x.shape[i] if not size and not allowzero else size for i, size in enumerate(sizes)])


def flatten(x: Tensor, axis: int) -> Tensor:
    """Returns a matrix: the axes before `axis`, and those from it on."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(x: Tensor, axes: tuple[int, ...] | None) -> Tensor:
    """Returns `x` with its axes in another order, reversed where none is given."""
    return x.permute(axes if axes is not None else tuple(range(x.ndim))[::-1])


def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """Returns `x` without those axes of size 1, without all of them where none are given."""
    return x.squeeze() if axes is None else x.squeeze(integers(axes))


def unsqueeze(x: Tensor, axes: Any) -> Tensor:
    """Returns `x` with axes of size 1, at places that count in the result."""
    given = integers(axes)
    rank = x.ndim + len(given)
    for axis in sorted(axis + rank if axis < 0 else axis for axis in given):
        x = x.unsqueeze(axis)
    return x


def concat(*values: Tensor, axis: int) -> Tensor:
    """Returns values one after the other along an axis."""
    return torch.cat(values, axis)


def split(x: Tensor, sizes: Any, axis: int) -> Any:
    """Returns pieces of these sizes along an axis; a single one as it is."""
    pieces = torch.split_with_sizes(x, list(integers(sizes)), axis)
    return pieces[0] if len(pieces) == 1 else pieces


def split_evenly(x: Tensor, axis: int, count: int) -> Any:
    """Returns that many pieces of one size, the last of them smaller where it must be; a single one as it is."""
    size = -(-x.shape[axis] // count)
    return split(x, tuple(min(size, x.shape[axis] - size * place) for place in range(count)), axis)


def take_range(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    """Returns the elements from `starts` to before `ends`, along axes that are the first ones where none are given."""
    first, last = integers(starts), integers(ends)
    along = range(len(first)) if axes is None else integers(axes)
    strides = (1,) * len(first) if steps is None else integers(steps)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        x = _along(x, axis + x.ndim if axis < 0 else axis, start, end, step)
    return x


def _along(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step < 0:
        size = x.shape[axis]
        start, end = _mirrored(start, size), _mirrored(end, size)
        x, step = x.flip(axis), -step
    return x[(slice(None),) * axis + (slice(start, end, step),)]


def _mirrored(place: int, size: int) -> int:
    """Returns where an element is from the other end; of before the first, behind the last."""
    place = place + size if place < 0 else place
    return size - 1 - max(-1, min(place, size - 1))


def expand(x: Tensor, shape: Any) -> Tensor:
    """Returns `x` repeated along axes of size 1, so that it has this shape; 1 keeps a size."""
    sizes = integers(shape)
    sizes = (1,) * (x.ndim - len(sizes)) + tuple(sizes)
    own = (1,) * (len(sizes) - x.ndim) + tuple(x.shape)
    return x.expand([mine if size == 1 else size for size, mine in zip(sizes, own, strict=True)])


def tile(x: Tensor, repeats: Any) -> Tensor:
    """Returns `x` side by side as often as asked along each axis."""
    return x.repeat(integers(repeats))


def depth_to_space(x: Tensor, size: int, columns_first: bool) -> Tensor:
    """Returns blocks of channels as squares of that size: [N, C·size², H, W] becomes [N, C, H·size, W·size]."""
    batch, channels, height, width = x.shape
    inner = channels // size**2
    if columns_first:
        blocks = x.reshape(batch, inner, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        blocks = x.reshape(batch, size, size, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, inner, height * size, width * size)


def space_to_depth(x: Tensor, size: int, columns_first: bool) -> Tensor:
    """Returns squares of that size as blocks of channels: [N, C, H, W] becomes [N, C·size², H/size, W/size]."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // size, size, width // size, size)
    blocks = blocks.permute(0, 1, 3, 5, 2, 4) if columns_first else blocks.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * size**2, height // size, width // size)


def _reshape(node: Node) -> Call:
    return Call(reshape, (0, 1), {"allowzero": bool(node.get("allowzero", 0))}, numbers=frozenset({1}))


def _axes(node: Node) -> Call:
    function = squeeze if node.op == "Squeeze" else unsqueeze
    if node.opset >= _AXES_AS_INPUT:
        return Call(function, (0, 1), numbers=frozenset({1}))
    axes = node.get("axes")
    return Call(function, (0,), {"axes": tuple(axes) if axes is not None else None})


def _split(node: Node) -> Call:
    axis, count = node.get("axis", 0), len(node.wanted)
    if node.opset < _AXES_AS_INPUT and node.get("split"):
        return Call(split, (0,), {"sizes": tuple(node.get("split")), "axis": axis})
    if node.has(1):
        return Call(split, (0, 1), {"axis": axis}, numbers=frozenset({1}))
    return Call(split_evenly, (0,), {"axis": axis, "count": node.get("num_outputs", count)})


def _slice(node: Node) -> Call:
    if node.opset >= _SLICE_AS_INPUT:
        return Call(take_range, (0, 1, 2, 3, 4), numbers=frozenset({1, 2, 3, 4}))
    given = {name: node.get(name) for name in ("starts", "ends", "axes")}
    return Call(take_range, (0,), {name: tuple(value) if value is not None else None for name, value in given.items()})


def _transpose(node: Node) -> Call:
    axes = node.get("perm")
    return Call(transpose, (0,), {"axes": tuple(axes) if axes is not None else None})


def _blocks(function: Callable[..., Tensor], node: Node) -> Call:
    columns_first = node.get("mode", "DCR") == "CRD"
    return Call(function, (0,), {"size": node.get("blocksize"), "columns_first": columns_first})


OPERATORS: dict[str, Translation] = {
    "Concat": lambda node: Call(concat, settings={"axis": node.get("axis", 1)}),
    "DepthToSpace": partial(_blocks, depth_to_space),
    "Expand": lambda node: Call(expand, (0, 1), numbers=frozenset({1})),
    "Flatten": lambda node: Call(flatten, (0,), {"axis": node.get("axis", 1)}),
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": partial(_blocks, space_to_depth),
    "Split": _split,
    "Squeeze": _axes,
    "Tile": lambda node: Call(tile, (0, 1), numbers=frozenset({1})),
    "Transpose": _transpose,
    "Unsqueeze": _axes,
}
