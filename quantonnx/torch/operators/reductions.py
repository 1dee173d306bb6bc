"""Operators that make one number of many: sums, extremes, their places, and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, integers
from quantonnx.torch.operators.elementwise import Widened

Axes = tuple[int, ...]
Reduction = Callable[[Tensor, Axes, bool], Tensor]

_SUM_AXES_AS_INPUT, _AXES_AS_INPUT, _K_AS_INPUT = 13, 18, 10


def reduce(x: Tensor, axes: Any = None, *, reduction: Reduction, keepdims: bool, noop: bool) -> Tensor:
    """Returns `x` reduced over `axes`: over all where there are none, or over none with `noop`."""
    given = integers(axes) if axes is not None else ()
    if given or not noop:
        given = tuple(axis % x.ndim if x.ndim else 0 for axis in given) or tuple(range(x.ndim))
    return reduction(x, given, keepdims) if x.ndim and given else reduction(x[None], (0,), False)


def add_up(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns sums."""
    return x.sum(axes, keepdims, dtype=x.dtype)


def mean(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns means; of integers without the rest."""
    if x.is_floating_point():
        return x.mean(axes, keepdims)
    return torch.div(add_up(x, axes, keepdims), math.prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


def product(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns products."""
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdims, dtype=x.dtype)
    return x


def largest(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns the largest; of nothing, the least that the type has."""
    if all(x.shape[axis] for axis in axes):
        return x.amax(axes, keepdims)
    return _of_nothing(x, axes, keepdims, _bounds(x.dtype)[0])


def smallest(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns the smallest; of nothing, the most that the type has."""
    if all(x.shape[axis] for axis in axes):
        return x.amin(axes, keepdims)
    return _of_nothing(x, axes, keepdims, _bounds(x.dtype)[1])


def _bounds(dtype: torch.dtype) -> tuple[Any, Any]:
    if dtype == torch.bool:
        return False, True
    return (-math.inf, math.inf) if dtype.is_floating_point else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _of_nothing(x: Tensor, axes: Axes, keepdims: bool, value: Any) -> Tensor:
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keepdims or axis not in axes]
    return torch.full(sizes, value, dtype=x.dtype, device=x.device)


def absolute_sum(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns sums of |x|."""
    return add_up(x.abs(), axes, keepdims)


def length(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns √Σx², whose gradient at zero is zero."""
    if x.is_floating_point():
        norm: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=keepdims)
        return norm
    return x.double().square().sum(axes, keepdims).sqrt().to(x.dtype)


def square_sum(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns sums of x²."""
    return add_up(x * x, axes, keepdims)


def log_sum(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns logarithms of sums."""
    return add_up(x, axes, keepdims).log()


def log_sum_exp(x: Tensor, axes: Axes, keepdims: bool) -> Tensor:
    """Returns log Σ eˣ, without overflow."""
    return torch.logsumexp(x, axes, keepdims)


def place_of_largest(x: Tensor, axis: int, keepdims: bool, last: bool) -> Tensor:
    """Returns where the largest elements along an axis are: the first of equal ones, or the last."""
    if not last:
        return x.argmax(axis, keepdims)
    return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdims)


def place_of_smallest(x: Tensor, axis: int, keepdims: bool, last: bool) -> Tensor:
    """Returns where the smallest elements along an axis are: the first of equal ones, or the last."""
    if not last:
        return x.argmin(axis, keepdims)
    return x.shape[axis] - 1 - x.flip(axis).argmin(axis, keepdims)


def top(x: Tensor, k: Any, axis: int, descending: bool) -> tuple[Tensor, Tensor]:
    """Returns the k largest or smallest elements along an axis and their places; of equal ones the first go first."""
    count = integers(k)[0]
    values, places = torch.sort(x, dim=axis, descending=descending, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def running_sum(x: Tensor, axis: Any, exclusive: bool, reverse: bool) -> Tensor:
    """Returns the sums of the elements so far along an axis; without the own one with `exclusive`."""
    along = integers(axis)[0]
    values = x.flip(along) if reverse else x
    sums = values.cumsum(along, dtype=x.dtype)
    sums = sums - values if exclusive else sums
    return sums.flip(along) if reverse else sums


def _reduce(reduction: Reduction, axes_as_input: int, node: Node) -> Call:
    settings = {"reduction": reduction, "keepdims": bool(node.get("keepdims", 1)), "noop": False}
    if node.opset >= axes_as_input:
        settings["noop"] = bool(node.get("noop_with_empty_axes", 0))
        return Call(Widened(reduce), (0, 1), settings, numbers=frozenset({1}))
    axes = node.get("axes")
    return Call(Widened(reduce), (0,), {**settings, "axes": tuple(axes) if axes is not None else None})


def _place(function: Callable[..., Tensor], node: Node) -> Call:
    last = bool(node.get("select_last_index", 0))
    settings = {"axis": node.get("axis", 0), "keepdims": bool(node.get("keepdims", 1)), "last": last}
    return Call(Widened(function), (0,), settings)


def _top(node: Node) -> Call:
    settings = {"axis": node.get("axis", -1), "descending": bool(node.get("largest", 1))}
    if node.opset < _K_AS_INPUT:
        return Call(top, (0,), {**settings, "k": node.get("k")})
    return Call(top, (0, 1), settings, numbers=frozenset({1}))


def _running_sum(node: Node) -> Call:
    settings = {"exclusive": bool(node.get("exclusive", 0)), "reverse": bool(node.get("reverse", 0))}
    return Call(running_sum, (0, 1), settings, numbers=frozenset({1}))


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": absolute_sum,
    "ReduceL2": length,
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": largest,
    "ReduceMean": mean,
    "ReduceMin": smallest,
    "ReduceProd": product,
    "ReduceSumSquare": square_sum,
}

OPERATORS: dict[str, Translation] = {
    **{op: partial(_reduce, reduction, _AXES_AS_INPUT) for op, reduction in _REDUCTIONS.items()},
    "ArgMax": partial(_place, place_of_largest),
    "ArgMin": partial(_place, place_of_smallest),
    "CumSum": _running_sum,
    "ReduceSum": partial(_reduce, add_up, _SUM_AXES_AS_INPUT),
    "TopK": _top,
}
