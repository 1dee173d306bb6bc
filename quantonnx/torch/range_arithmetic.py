"""From a range to scale and zero point on the device where the values are: `TensorFormat.parameters` on tensors.

A copy to the host would make every training step wait for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.formats import SMALLEST_RANGE, TensorFormat
from quantonnx.scales import ScaleType

_LEAST_HALF, _LEAST_FLOAT = 2.0**-24, 2.0**-149
"""The smallest positive numbers of float16 and float32."""


class ScaleKind(NamedTuple):
    """Which numbers the scales of a format may be: positive ones of `dtype`, so small that every code is finite."""

    type: ScaleType
    dtype: torch.dtype
    least: float
    largest: float


def kind_of(fmt: TensorFormat, float_type: str) -> ScaleKind:
    """Returns the kind of the format's scales in a float type, called as by numpy."""
    limits = np.finfo(float_type)
    reach = max(-fmt.qmin, fmt.qmax) if fmt.symmetric else fmt.qmax - fmt.qmin
    wanted = float(limits.max) / reach
    largest = limits.dtype.type(wanted)
    if float(largest) > wanted:
        largest = np.nextafter(largest, limits.dtype.type(0))
    return ScaleKind(fmt.scale_type, getattr(torch, float_type), float(limits.smallest_subnormal), float(largest))


def aligned(numbers: Tensor, fmt: TensorFormat, rank: int) -> Tensor:
    """Returns scales or zero points in the shape that broadcasts over a tensor of that rank, over `grouped` ones where
    the format has groups."""
    if fmt.axis is None or numbers.ndim == 0:
        return numbers
    axis = fmt.axis % rank
    if fmt.group_size is not None:
        return numbers.unsqueeze(axis + 1)
    return numbers.reshape(-1, *[1] * (rank - 1 - axis))


def grouped(x: Tensor, fmt: TensorFormat) -> Tensor:
    """Returns the values with an axis for groups and one for places in them; zeros fill the last group."""
    assert fmt.axis is not None
    assert fmt.group_size is not None
    axis = fmt.axis % x.ndim
    missing = -x.shape[axis] % fmt.group_size
    if missing:
        x = functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, missing])
    return x.reshape(*x.shape[:axis], -1, fmt.group_size, *x.shape[axis + 1 :])


def ungrouped(x: Tensor, fmt: TensorFormat, size: int) -> Tensor:
    """Undoes `grouped`, for a tensor that has that size along the axis."""
    assert fmt.axis is not None
    axis = fmt.axis % (x.ndim - 1)
    return x.flatten(axis, axis + 1).narrow(axis, 0, size)


def extremes(x: Tensor, fmt: TensorFormat) -> tuple[Tensor, Tensor]:
    """Returns the minimum and maximum of the values and 0, shaped as by `TensorFormat.extremes`; `x` is grouped."""
    if fmt.axis is None:
        low, high = x.aminmax()
    else:
        axis = fmt.axis % (x.ndim - (fmt.group_size is not None))
        others = [axis + 1] if fmt.group_size is not None else [i for i in range(x.ndim) if i != axis]
        low, high = (x.amin(others), x.amax(others)) if others else (x, x)
    return low.clamp(max=0), high.clamp(min=0)


def parameters_of(low: Tensor, high: Tensor, fmt: TensorFormat, kind: ScaleKind) -> tuple[Tensor, Tensor]:
    """Returns scale and zero point, float32, for the values `low` to `high`, with the numbers of
    `TensorFormat.parameters`."""
    low, high = low.double(), high.double()
    if fmt.symmetric and fmt.signed:
        largest = torch.maximum(low.abs(), high.abs())
        return scale_of(largest, fmt, kind), torch.zeros_like(largest, dtype=torch.float32)
    if fmt.symmetric:
        scale, zero_point = _unsigned_symmetric(low, high, fmt)
        return of_kind(scale, kind), zero_point
    low, high = low.clamp(max=0), high.clamp(min=0)
    of_floats = ScaleKind(kind.type, torch.float32, _LEAST_FLOAT, torch.finfo(torch.float32).max)
    scale = of_kind((high - low).clamp(min=SMALLEST_RANGE) / (fmt.qmax - fmt.qmin), of_floats)
    zero_point = torch.round(fmt.qmin - low / scale.double()).clamp(fmt.qmin, fmt.qmax)
    return of_kind(scale, kind), zero_point.float()


def scale_of(largest: Tensor, fmt: TensorFormat, kind: ScaleKind) -> Tensor:
    """Returns the scale, float32, of a signed symmetric format for the values up to `largest`, float64."""
    return of_kind(largest.clamp(min=SMALLEST_RANGE) / ((fmt.qmax - fmt.qmin) / 2), kind)


def range_of(scale: Tensor, zero_point: Tensor, fmt: TensorFormat) -> tuple[Tensor, Tensor]:
    """Returns a range, float64, of which `parameters_of` makes these numbers."""
    scale, zero_point = scale.double(), zero_point.double()
    if not fmt.symmetric:
        return (fmt.qmin - zero_point) * scale, (fmt.qmax - zero_point) * scale
    one_sided = (zero_point == 0) & (not fmt.signed)
    largest = scale * torch.where(one_sided, fmt.qmax, (fmt.qmax - fmt.qmin) / 2)
    return torch.where(one_sided, 0.0, -largest), largest


def of_kind(scale: Tensor, kind: ScaleKind) -> Tensor:
    """Returns the nearest scales, float32, that a kind has."""
    if kind.type is ScaleType.POWER_OF_TWO:
        exponent = scale.double().log2().round().clamp(math.log2(kind.least), math.floor(math.log2(kind.largest)))
        return exponent.exp2().to(kind.dtype).float()
    if kind.type is ScaleType.FLOAT16:
        scale = scale.clamp(_LEAST_HALF, torch.finfo(torch.float16).max).half().to(scale.dtype)
    return scale.clamp(kind.least, kind.largest).to(kind.dtype).float()


def _unsigned_symmetric(low: Tensor, high: Tensor, fmt: TensorFormat) -> tuple[Tensor, Tensor]:
    largest = torch.maximum(low.abs(), high.abs()).clamp(min=SMALLEST_RANGE)
    one_sided = low >= 0
    steps = torch.where(one_sided, float(fmt.qmax), (fmt.qmax - fmt.qmin) / 2)
    return largest / steps, torch.where(one_sided, 0.0, float(2 ** (fmt.n_bits - 1)))
