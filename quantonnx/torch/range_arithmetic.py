"""From a range to scale and zero point on the device where the values are: `TensorFormat.parameters` on tensors.

A copy to the host would make every training step wait for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.formats import SMALLEST_RANGE, TensorFormat
from quantonnx.scales import ScaleType

_BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}


def float_type_of(name: str) -> torch.dtype:
    """Returns the type that numpy calls so."""
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


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


def parameters_of(low: Tensor, high: Tensor, fmt: TensorFormat, float_type: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns scale and zero point, float32, for the values `low` to `high`, with the numbers of
    `TensorFormat.parameters`."""
    low, high = low.double(), high.double()
    if fmt.symmetric:
        scale, zero_point = _symmetric(low, high, fmt)
        return of_kind(scale, fmt, float_type), zero_point.float()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = of_kind((high - low).clamp(min=SMALLEST_RANGE) / (fmt.qmax - fmt.qmin), fmt, torch.float32)
    zero_point = torch.round(fmt.qmin - low / scale.double()).clamp(fmt.qmin, fmt.qmax)
    return of_kind(scale.double(), fmt, float_type), zero_point.float()


def range_of(scale: Tensor, zero_point: Tensor, fmt: TensorFormat) -> tuple[Tensor, Tensor]:
    """Returns a range, float64, of which `parameters_of` makes these numbers."""
    scale, zero_point = scale.double(), zero_point.double()
    if not fmt.symmetric:
        return (fmt.qmin - zero_point) * scale, (fmt.qmax - zero_point) * scale
    one_sided = (zero_point == 0) & (not fmt.signed)
    largest = scale * torch.where(one_sided, fmt.qmax, (fmt.qmax - fmt.qmin) / 2)
    return torch.where(one_sided, 0.0, -largest), largest


def of_kind(scale: Tensor, fmt: TensorFormat, float_type: torch.dtype) -> Tensor:
    """Returns the nearest positive scales, float32, of the kind of the format that `float_type` holds, so small that
    every code is finite in it."""
    least = float(np.finfo(str(float_type).removeprefix("torch.")).smallest_subnormal)
    reach = max(-fmt.qmin, fmt.qmax) if fmt.symmetric else fmt.qmax - fmt.qmin
    largest = torch.finfo(float_type).max / reach
    if fmt.scale_type is ScaleType.POWER_OF_TWO:
        exponent = scale.double().log2().round().clamp(float(np.log2(least)), float(np.floor(np.log2(largest))))
        return exponent.exp2().to(float_type).float()
    if fmt.scale_type is ScaleType.FLOAT16:
        half = np.finfo(np.float16)
        scale = scale.clamp(float(half.smallest_subnormal), float(half.max)).half().double()
    stored = scale.clamp(least, largest).to(float_type)
    return torch.where(stored.double() > largest, _next_smaller(stored), stored).float()


def _symmetric(low: Tensor, high: Tensor, fmt: TensorFormat) -> tuple[Tensor, Tensor]:
    largest = torch.maximum(low.abs(), high.abs()).clamp(min=SMALLEST_RANGE)
    half = (fmt.qmax - fmt.qmin) / 2
    if fmt.signed:
        return largest / half, torch.zeros_like(low)
    one_sided = low >= 0
    zero_point = torch.where(one_sided, 0.0, float(2 ** (fmt.n_bits - 1)))
    return largest / torch.where(one_sided, float(fmt.qmax), half), zero_point


def _next_smaller(stored: Tensor) -> Tensor:
    bits = _BITS[stored.dtype]
    return (stored.view(bits) - 1).view(stored.dtype)
