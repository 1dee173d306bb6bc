"""Smaller scales where they lessen the error of a layer: a few weights are clipped, the others get finer steps.

The error of a candidate is tr(ΔW H ΔWᵀ) with H = E[x xᵀ], over the inputs that share the scale (Lin, Tang, Tang, Yang,
Chen, Wang, Xiao, Dang, Gan and Han, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
MLSys 2024, whose search for the clipping of weights compares outputs in the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.grids import Problem, nearest
from quantonnx.formats import Parameters, ScaleType, TensorFormat
from quantonnx.site_numbers import raised

Array = NDArray[Any]

RATIOS = tuple(float(ratio) for ratio in np.linspace(1, 0.5, 20, endpoint=False))
"""Shares of the range of the weights that are tried, the whole first."""


def searched(problem: Problem, ratios: Sequence[float] = RATIOS) -> Parameters:
    """Returns the scales with which plain rounding changes the outputs of a layer least.

    Those that the layer has, where a user fixed them, where they are powers of two (another one is twice as far, and
    shifts may not reach it), or where numbers that share one are no rows of its matrix.
    """
    layer, fmt, site = problem.layer, problem.format, problem.layer.site
    parts = _parts(problem)
    fixed = site.ranging.scale is not None or site.ranging.range is not None
    if parts is None or fixed or fmt.scale_type is ScaleType.POWER_OF_TWO:
        return problem.parameters
    low, high = fmt.extremes(layer.tensor(problem.weight).astype(np.float32))
    candidates = [_raised(fmt.parameters(low * r, high * r, site.float_type), problem) for r in ratios]
    errors = np.stack([_shared(problem, _errors(problem, each, parts)) for each in candidates])
    return _picked(candidates, np.argmin(errors, axis=0))


def searched_rows(
    values: Array, second: Array, fmt: TensorFormat, float_type: str, ratios: Sequence[float]
) -> Parameters:
    """Returns the scales of rows [outputs, inputs], one each, with which rounding changes their products least."""
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    candidates = [fmt.parameters(low * ratio, high * ratio, float_type) for ratio in ratios]
    if len(candidates) == 1:
        return candidates[0]
    errors = []
    for each in candidates:
        scale, zero_point = (numbers.astype(np.float64)[:, None] for numbers in (each.scale, each.zero_point))
        change = (nearest(values, scale, zero_point, fmt) - zero_point) * scale - values
        errors.append(np.sum(change @ second * change, axis=1))
    return _picked(candidates, np.argmin(errors, axis=0))


def _parts(problem: Problem) -> list[slice] | None:
    """The inputs that share a scale within a row; None where they are not neighbours."""
    layer, fmt, inputs = problem.layer, problem.format, problem.weight.shape[-1]
    if fmt.group_size is not None:
        starts = range(0, inputs, fmt.group_size)
        return [slice(at, at + fmt.group_size) for at in starts] if fmt.axis == layer.input_axis else None
    by_row = fmt.axis is None or not problem.parameters.scale.ndim or fmt.axis == layer.output_axis
    return [slice(0, inputs)] if by_row else None


def _errors(problem: Problem, candidate: Parameters, parts: Sequence[slice]) -> Array:
    """tr(ΔW H ΔWᵀ) of each row and part, [groups, outputs, parts]."""
    scale, zero_point = problem.steps(candidate)
    change = (nearest(problem.weight, scale, zero_point, problem.format) - zero_point) * scale - problem.weight
    found = [
        np.sum(np.matmul(change[:, :, part], problem.second[:, part, part]) * change[:, :, part], axis=2)
        for part in parts
    ]
    return np.stack(found, axis=2)


def _shared(problem: Problem, errors: Array) -> Array:
    """Errors by scale, of the shape of the scales."""
    shape = problem.parameters.scale.shape
    if not shape:
        return np.asarray(errors.sum())
    if problem.format.group_size is None:
        return errors.reshape(shape)
    return problem.layer.tensor(errors)


def _picked(candidates: Sequence[Parameters], best: Array) -> Parameters:
    scale, zero_point = (
        np.take_along_axis(np.stack([getattr(each, name) for each in candidates]), best[None], 0)[0]
        for name in ("scale", "zero_point")
    )
    return Parameters(scale, zero_point)


def _raised(numbers: Parameters, problem: Problem) -> Parameters:
    if problem.least is None:
        return numbers
    return Parameters(raised(numbers.scale, problem.least, problem.format), numbers.zero_point)
