"""Operators that read and write elements at places that other values give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, Unsupported, integers
from quantonnx.torch.operators.elementwise import Widened

_REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(x: Tensor, indices: Any, axis: int) -> Tensor:
    """Returns the slices of `x` at these places of an axis; places under 0 count from the end."""
    axis = axis + x.ndim if axis < 0 else axis
    if isinstance(indices, Tensor):
        return x[(slice(None),) * axis + (indices.long(),)]
    if isinstance(indices, tuple):
        return torch.stack([x.select(axis, place) for place in indices], axis)
    return x.select(axis, indices)


def gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Returns at each place the element that is at the given place of the axis."""
    return x.gather(axis, _wrapped(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    """Returns the slices of `x` at the places that the last axis of `indices` spells, past `batch_dims` shared axes."""
    places = indices.long()
    ahead = range(places.ndim - 2, places.ndim - 2 - batch_dims, -1)
    batch = (torch.arange(n, device=x.device).reshape(-1, *(1,) * k) for n, k in zip(x.shape, ahead, strict=False))
    return x[(*batch, *places.unbind(-1))]


def scatter(x: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str | None) -> Tensor:
    """Returns `x` with updates at the given places of an axis, or combined with what is there."""
    places, updates = _wrapped(indices, x.shape[axis]), updates.to(x.dtype)
    if reduction is None:
        return x.scatter(axis, places, updates)
    if reduction == "sum":
        return x.scatter_add(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, reduction)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, reduction: str | None) -> Tensor:
    """Returns `x` with slices at the places that the last axis of `indices` spells, or combined with what is there."""
    places, updates = indices.long(), updates.to(x.dtype)
    depth = places.shape[-1]
    if reduction in (None, "sum"):
        return x.index_put(places.unbind(-1), updates, accumulate=reduction is not None)
    flat = torch.zeros(places.shape[:-1], dtype=torch.long, device=x.device)
    for axis, along in enumerate(places.unbind(-1)):
        flat = flat * x.shape[axis] + _wrapped(along, x.shape[axis])
    rows = x.reshape(x.shape[:depth].numel(), -1)
    values = updates.reshape(flat.numel(), rows.shape[1])
    return rows.scatter_reduce(0, flat.reshape(-1, 1).expand_as(values), values, str(reduction)).reshape(x.shape)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    places = indices.long()
    return torch.where(places < 0, places + size, places)


def nonzero(x: Tensor) -> Tensor:
    """Returns the places of what is not zero, one a column."""
    return torch.nonzero(x).T.reshape(x.ndim, -1)


def compress(x: Tensor, condition: Tensor, axis: int | None) -> Tensor:
    """Returns the slices of an axis, or of all elements, where the condition holds."""
    x, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(along, torch.nonzero(condition).reshape(-1))


def unique(x: Tensor, axis: int | None, ordered: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns what is different, where it is first, which of them each element is, and how often each is there."""
    x, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    values, inverse, counts = torch.unique(x, dim=along, sorted=True, return_inverse=True, return_counts=True)
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if ordered:
        return values, first, inverse, counts
    order = first.argsort()
    return values.index_select(along, order), first[order], order.argsort()[inverse], counts[order]


def reverse_sequence(x: Tensor, lengths: Tensor, batch_axis: int, time_axis: int) -> Tensor:
    """Returns `x` with the first elements of each sequence in reverse, as many as its length says."""
    time = torch.arange(x.shape[time_axis], device=x.device)
    ends = lengths.long()[:, None]
    places = torch.where(time < ends, ends - 1 - time, time)
    places = places if batch_axis < time_axis else places.T
    shape = [size if axis in (batch_axis, time_axis) else 1 for axis, size in enumerate(x.shape)]
    return x.gather(time_axis, places.reshape(shape).expand_as(x))


def one_hot(indices: Tensor, depth: Any, values: Tensor, axis: int) -> Tensor:
    """Returns values[1] at the given places of a new axis, and values[0] elsewhere."""
    count = integers(depth)[0]
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    places = torch.arange(int(count), device=indices.device).reshape(-1, *(1,) * (indices.ndim - axis))
    hot = _wrapped(indices, int(count)).unsqueeze(axis) == places
    return torch.where(hot, values[1], values[0])


def _scatter(node: Node) -> Call:
    return Call(Widened(scatter), (0, 1, 2), {"axis": node.get("axis", 0), "reduction": _reduction(node)})


def _reduction(node: Node) -> str | None:
    asked = node.get("reduction", "none")
    if asked not in _REDUCTIONS:
        raise Unsupported(f"reduction {asked!r}")
    return _REDUCTIONS[asked]


def _unique(node: Node) -> Call:
    settings = {"axis": node.get("axis"), "ordered": bool(node.get("sorted", 1))}
    return Call(unique_values if len(node.wanted) == 1 else unique, (0,), settings)


def unique_values(x: Tensor, axis: int | None, ordered: bool) -> Tensor:
    """Returns what is different."""
    return unique(x, axis, ordered)[0]


def _reverse_sequence(node: Node) -> Call:
    return Call(
        reverse_sequence, (0, 1), {name: node.get(name, d) for name, d in (("batch_axis", 1), ("time_axis", 0))}
    )


OPERATORS: dict[str, Translation] = {
    "Compress": lambda node: Call(compress, (0, 1), {"axis": node.get("axis")}),
    "Gather": lambda node: Call(gather, (0, 1), {"axis": node.get("axis", 0)}, numbers=frozenset({1})),
    "GatherElements": lambda node: Call(gather_elements, (0, 1), {"axis": node.get("axis", 0)}),
    "GatherND": lambda node: Call(gather_nd, (0, 1), {"batch_dims": node.get("batch_dims", 0)}),
    "NonZero": lambda node: Call(nonzero, (0,)),
    "OneHot": lambda node: Call(one_hot, (0, 1, 2), {"axis": node.get("axis", -1)}, numbers=frozenset({1})),
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter,
    "ScatterElements": _scatter,
    "ScatterND": lambda node: Call(Widened(scatter_nd), (0, 1, 2), {"reduction": _reduction(node)}),
    "Unique": _unique,
}
