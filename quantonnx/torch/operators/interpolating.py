"""Interpolation axis by axis, in every way that ONNX's Resize knows: each value is a weighted sum of a few others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interpolation:
    """How values come from their neighbours, in ONNX's words; `outside` is what a crop has beyond the input."""

    mode: str
    coordinates: str
    nearest: str = "floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    outside: float = 0.0


@dataclass(frozen=True)
class Axis:
    """An axis that goes from `size` to `count` values; `span` is the part that is kept, as shares of its length."""

    axis: int
    size: int
    count: int
    scale: float
    span: tuple[float, float] = (0.0, 1.0)


def interpolate(x: Tensor, axes: Sequence[Axis], how: Interpolation) -> Tensor:
    """Returns x resized along these axes."""
    dtype = x.dtype
    if how.mode != "nearest" and not x.is_floating_point():
        x = x.float()
    outside = []
    for axis in axes:
        places = _places(axis, how.coordinates, x.device)
        x = _along(x, axis, places, how)
        if how.coordinates == "tf_crop_and_resize":
            outside.append((axis.axis, (places < 0) | (places > axis.size - 1)))
    for number, beyond in outside:
        x = torch.where(_aligned(beyond, number, x.ndim), how.outside, x)
    return x.to(dtype)


def _along(x: Tensor, axis: Axis, places: Tensor, how: Interpolation) -> Tensor:
    if how.mode == "nearest":
        return x.index_select(axis.axis, _nearest(places, axis, how.nearest))
    taps, weights = _antialiased(places, axis, how) if how.antialias else _taps(places, axis, how)
    if how.exclude_outside or how.antialias:
        inside = (taps >= 0) & (taps < axis.size) if how.exclude_outside else torch.ones_like(taps, dtype=torch.bool)
        weights = weights * inside
        weights = weights / weights.sum(0)
    taps, weights = taps.clamp(0, axis.size - 1), weights.to(x.dtype)
    pieces = zip(taps.unbind(0), weights.unbind(0), strict=True)
    first, *rest = (x.index_select(axis.axis, tap) * _aligned(weight, axis.axis, x.ndim) for tap, weight in pieces)
    return sum(rest, first)


def _aligned(values: Tensor, axis: int, rank: int) -> Tensor:
    return values.reshape(-1, *(1,) * (rank - axis - 1))


def _places(axis: Axis, coordinates: str, device: torch.device) -> Tensor:
    """Returns where the new values lie among the old ones, computed in float32 as ONNX Runtime does."""
    numbers = torch.arange(axis.count, dtype=torch.float32, device=device)
    size, count, scale = axis.size, axis.count, axis.scale
    if coordinates == "align_corners":
        return numbers * (size - 1) / (count - 1) if count > 1 else numbers * 0
    if coordinates == "asymmetric":
        return numbers / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (numbers + 0.5) / scale
    if coordinates == "tf_crop_and_resize":
        first, last = axis.span
        if count == 1:
            return numbers + 0.5 * (first + last) * (size - 1)
        return first * (size - 1) + numbers * (last - first) * (size - 1) / (count - 1)
    if coordinates == "pytorch_half_pixel" and count == 1:
        return numbers * 0
    start = size / 2 * (1 - count / (scale * size)) if coordinates == "half_pixel_symmetric" else 0.0
    return (numbers + 0.5) / scale + start - 0.5


def _nearest(places: Tensor, axis: Axis, rule: str) -> Tensor:
    if rule == "ceil" or (rule == "simple" and axis.scale < 1):
        found = places.ceil()
    elif rule == "round_prefer_floor":
        found = (places - 0.5).ceil()
    elif rule == "round_prefer_ceil":
        found = (places + 0.5).floor()
    else:
        found = places.floor()
    return found.long().clamp(0, axis.size - 1)


def _taps(places: Tensor, axis: Axis, how: Interpolation) -> tuple[Tensor, Tensor]:
    """Returns the neighbours of each place and their weights [taps, count]."""
    if how.mode == "linear":
        places = places.clamp(0, axis.size - 1)
    reach = torch.arange(*((0, 2) if how.mode == "linear" else (-1, 3)), device=places.device)
    taps = places.floor() + reach[:, None]
    return taps.long(), _weight(taps - places, how)


def _antialiased(places: Tensor, axis: Axis, how: Interpolation) -> tuple[Tensor, Tensor]:
    """Returns the neighbours within the filter's reach, which grows where values become fewer, and their weights."""
    shrink = min(axis.scale, 1.0)
    reach = (1 if how.mode == "linear" else 2) / shrink
    first = (places - reach + 1).floor()
    taps = first + torch.arange(math.ceil(2 * reach) + 1, device=places.device)[:, None]
    return taps.long(), _weight((taps - places) * shrink, how)


def _weight(distance: Tensor, how: Interpolation) -> Tensor:
    d = distance.abs()
    if how.mode == "linear":
        return (1 - d).clamp(min=0)
    a = how.cubic_a
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0))
