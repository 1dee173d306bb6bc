"""Pools: the largest, the mean and the norm of each window, or of all positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, integers
from quantonnx.torch.operators.windows import Pads, Windows, even, padded

_LARGEST: dict[int, Callable[..., Any]] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEANS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_SUMS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def max_pool(x: Tensor, kernel: tuple[int, ...], windows: Windows) -> Tensor:
    """Returns the largest value of each window of x [N, C, …]."""
    return _pooled(x, kernel, windows, places=False)[0]


def max_pool_with_places(
    x: Tensor, kernel: tuple[int, ...], windows: Windows, by_columns: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns the largest value of each window, and where it stands in all of x; `by_columns` counts the spatial
    axes with the first one fastest."""
    values, places = _pooled(x, kernel, windows, places=True)
    sizes = x.shape[2:]
    inner = math.prod(sizes)
    if by_columns:
        places = _by_columns(places, sizes)
    starts = torch.arange(x.shape[0] * x.shape[1], device=x.device) * inner
    return values, places + starts.reshape(*x.shape[:2], *(1,) * len(sizes))


def _pooled(x: Tensor, kernel: tuple[int, ...], windows: Windows, *, places: bool) -> tuple[Tensor, Tensor]:
    sizes, rank = x.shape[2:], len(kernel)
    padding = windows.padding(sizes, kernel)
    amounts = even(padding)
    floats = x if x.is_floating_point() else x.double()
    steps, spacings = windows.steps(rank), windows.spacings(rank)
    if amounts is not None and all(2 * amount <= k for amount, k in zip(amounts, kernel, strict=True)):
        found = _LARGEST[rank](floats, kernel, steps, amounts, spacings, windows.ceil, return_indices=places)
        values, where = found if places else (found, found)
    else:
        filling = windows.filling(sizes, kernel, padding)
        wide = padded(floats, filling, -math.inf)
        found = _LARGEST[rank](wide, kernel, steps, 0, spacings, return_indices=places)
        values, where = found if places else (found, found)
        where = _without_padding(where, sizes, filling) if places else where
    return values.to(x.dtype), where


def _without_padding(places: Tensor, sizes: Sequence[int], padding: Pads) -> Tensor:
    found, scale = torch.zeros_like(places), 1
    for size, (first, last) in reversed(tuple(zip(sizes, padding, strict=True))):
        wide = size + first + last
        found = found + (places % wide - first) * scale
        places, scale = places // wide, scale * size
    return found


def _by_columns(places: Tensor, sizes: Sequence[int]) -> Tensor:
    found, scale = torch.zeros_like(places), math.prod(sizes)
    for size in reversed(sizes):
        scale //= size
        found, places = found + places % size * scale, places // size
    return found


def average_pool(x: Tensor, kernel: tuple[int, ...], windows: Windows, count_padding: bool = False) -> Tensor:
    """Returns the mean of each window of x [N, C, …]; `count_padding` counts padding as zeros."""
    sizes, rank = x.shape[2:], len(kernel)
    padding = windows.padding(sizes, kernel)
    amounts = even(padding)
    plain = amounts is not None and set(windows.spacings(rank)) == {1}
    if amounts is not None and plain and all(2 * amount <= k for amount, k in zip(amounts, kernel, strict=True)):
        return _MEANS[rank](x, kernel, windows.steps(rank), amounts, windows.ceil, count_padding)
    sums = _sums(x, kernel, windows)
    for axis, size in enumerate(sizes):
        numbers = torch.arange(sums.shape[axis + 2], device=x.device) * windows.steps(rank)[axis] - padding[axis][0]
        reach = torch.arange(kernel[axis], device=x.device) * windows.spacings(rank)[axis]
        places = numbers[:, None] + reach
        low, high = (-padding[axis][0], size + padding[axis][1]) if count_padding else (0, size)
        counts = ((places >= low) & (places < high)).sum(1).to(x.dtype)
        sums = sums / counts.reshape(-1, *(1,) * (rank - axis - 1))
    return sums


def _sums(x: Tensor, kernel: tuple[int, ...], windows: Windows) -> Tensor:
    """Returns the sum of each window."""
    sizes, rank = x.shape[2:], len(kernel)
    wide = padded(x, windows.filling(sizes, kernel, windows.padding(sizes, kernel)))
    if set(windows.spacings(rank)) == {1}:
        return _MEANS[rank](wide, kernel, windows.steps(rank)) * math.prod(kernel)
    rows = wide.reshape(-1, 1, *wide.shape[2:])
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    found = _SUMS[rank](rows, ones, None, windows.steps(rank), 0, windows.spacings(rank))
    return found.reshape(*x.shape[:2], *found.shape[2:])


def norm_pool(x: Tensor, kernel: tuple[int, ...], windows: Windows, order: float) -> Tensor:
    """Returns the norm of each window, (Σ|x|^order)^(1/order); its gradient at zero is zero."""
    sums = _sums(x.abs() ** order, kernel, windows).clamp(min=0)
    empty = sums == 0
    return torch.where(empty, 0.0, torch.where(empty, 1.0, sums) ** (1 / order))


def global_average_pool(x: Tensor) -> Tensor:
    """Returns the mean of all positions of x [N, C, …]."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """Returns the largest value of all positions of x [N, C, …]."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def global_norm_pool(x: Tensor, order: float) -> Tensor:
    """Returns the norm of all positions of x [N, C, …]."""
    norm: Tensor = torch.linalg.vector_norm(x, order, tuple(range(2, x.ndim)), keepdim=True)
    return norm


def max_unpool(x: Tensor, places: Tensor, sizes: object, kernel: tuple[int, ...], windows: Windows) -> Tensor:
    """Returns zeros with the values of x at their places, which count through the whole tensor of these `sizes`."""
    rank = len(kernel)
    if sizes is None:
        padding = windows.pads or (0,) * 2 * rank
        each = zip(x.shape[2:], windows.steps(rank), kernel, padding[:rank], padding[rank:], strict=True)
        inner = [(size - 1) * step + k - first - last for size, step, k, first, last in each]
        shape = (*x.shape[:2], *inner)
    else:
        shape = integers(sizes)
    zeros = torch.zeros(math.prod(shape), dtype=x.dtype, device=x.device)
    return zeros.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)


def _settings(node: Node) -> dict[str, Any]:
    return {"kernel": tuple(node.get("kernel_shape")), "windows": Windows.of(node)}


def _max_pool(node: Node) -> Call:
    if len(node.wanted) < 2 or not node.wanted[1]:
        return Call(max_pool if len(node.wanted) == 1 else max_pool_with_places, (0,), _settings(node))
    return Call(max_pool_with_places, (0,), _settings(node) | {"by_columns": bool(node.get("storage_order", 0))})


def _average_pool(node: Node) -> Call:
    return Call(average_pool, (0,), _settings(node) | {"count_padding": bool(node.get("count_include_pad", 0))})


def _norm_pool(node: Node) -> Call:
    return Call(norm_pool, (0,), _settings(node) | {"order": float(node.get("p", 2))})


def _global_norm_pool(node: Node) -> Call:
    return Call(global_norm_pool, (0,), {"order": float(node.get("p", 2))})


def _max_unpool(node: Node) -> Call:
    return Call(max_unpool, (0, 1, 2), _settings(node), numbers=frozenset({2}))


OPERATORS: dict[str, Translation] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _norm_pool,
    "GlobalAveragePool": lambda node: Call(global_average_pool),
    "GlobalMaxPool": lambda node: Call(global_max_pool),
    "GlobalLpPool": _global_norm_pool,
    "MaxUnpool": _max_unpool,
}
