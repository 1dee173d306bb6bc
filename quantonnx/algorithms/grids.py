"""The grid on which the codes of a weight lie, seen as the matrix of its layer, and what an algorithm says about them.

Algorithms choose codes, and perhaps scales; `moved` writes the values that those codes stand for in the place of the
weight, so that whoever rounds it again finds the same codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.weight_layers import WeightLayer
from quantonnx.formats import Parameters, TensorFormat, dequantize, quantize

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer whose weight is to be rounded so that its outputs change least.

    `weight` and `target` are float64 [groups, outputs, inputs]: the float weight, and what would be best if no number
    had to be rounded (the same, unless the inputs are those of a network that has changed). `second` is E[x xᵀ],
    float64 [groups, inputs, inputs].
    `least` is how small scales may become, of the shape of those of `parameters`.
    """

    layer: WeightLayer
    weight: Array
    target: Array
    second: Array
    parameters: Parameters
    least: Array | None = None

    @property
    def format(self) -> TensorFormat:
        """The format of the codes."""
        return self.layer.site.format

    def steps(self, parameters: Parameters | None = None) -> tuple[Array, Array]:
        """Returns scale and zero point of each number of the matrix, float64 [groups, outputs, inputs]."""
        found, fmt = parameters or self.parameters, self.format
        shape = self.layer.shape
        return self._spread(found.scale, fmt, shape), self._spread(found.zero_point, fmt, shape)

    def _spread(self, numbers: Array, fmt: TensorFormat, shape: tuple[int, ...]) -> Array:
        numbers = numbers.astype(np.float64)
        if numbers.ndim and fmt.axis is not None and fmt.group_size is not None:
            numbers = numbers.take(np.arange(shape[fmt.axis]) // fmt.group_size, fmt.axis)
        elif numbers.ndim and fmt.axis is not None:
            numbers = numbers.reshape([-1 if axis == fmt.axis % len(shape) else 1 for axis in range(len(shape))])
        return self.layer.matrix(np.broadcast_to(numbers, shape))

    def plain(self, parameters: Parameters | None = None) -> Array:
        """Returns the codes of the float weight by rounding alone, float64 [groups, outputs, inputs]."""
        stored = self.layer.tensor(self.weight).astype(np.float32)
        codes = quantize(stored, parameters or self.parameters, self.format, self.layer.site.tensor)
        return np.asarray(self.layer.matrix(codes.astype(np.float64)))


@dataclass(frozen=True, eq=False)
class Rounded:
    """The codes that an algorithm chose, whole numbers [groups, outputs, inputs], and the scales that go with them."""

    codes: Array
    parameters: Parameters


Rounder = Callable[[Problem], Rounded]
"""An algorithm: it chooses the codes of one layer."""


def moved(problem: Problem, rounded: Rounded, dtype: np.dtype[Any]) -> Array | None:
    """Returns the values of the codes with the axes and dtype of the weight; None where rounding would find others."""
    fmt, parameters = problem.format, rounded.parameters
    codes = np.ascontiguousarray(problem.layer.tensor(rounded.codes)).astype(fmt.dtype)
    values = dequantize(codes, parameters, fmt).astype(dtype)
    again = quantize(values, parameters, fmt, problem.layer.site.tensor)
    return values if np.array_equal(again, codes) else None


def nearest(values: Array, scale: Array, zero_point: Array, fmt: TensorFormat) -> Array:
    """Returns the codes nearest to values, whole numbers of the values' type."""
    return np.asarray(np.clip(np.rint(values / scale) + zero_point, fmt.qmin, fmt.qmax))
