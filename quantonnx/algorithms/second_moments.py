"""Second moments of the inputs of a layer: all that the squared error of its outputs depends on.

For a change ΔW of a weight, the mean squared error of the outputs is tr(ΔW H ΔWᵀ) with H = E[x xᵀ]. H is summed over
samples one at a time, so that memory is that of H, however many samples there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.errors import CalibrationError

Array = NDArray[Any]

_LEAST_DAMPING = 1e-6


class Moments:
    """Sums over the inputs x of a layer as it will be, and over those of the float network, y.

    `rows` counts; sums are float64 of float32 products. Where no y is given, it is x.
    """

    def __init__(self, groups: int, inputs: int, *, paired: bool = False) -> None:
        self.rows = 0
        self._first = np.zeros((groups, inputs))
        self._second = np.zeros((groups, inputs, inputs))
        self._float_first = np.zeros((groups, inputs)) if paired else self._first
        self._cross = np.zeros((groups, inputs, inputs)) if paired else self._second

    def update(self, x: Array, y: Array | None = None) -> None:
        """Adds rows, float32 [groups, rows, inputs]; CalibrationError for NaN or infinity."""
        with np.errstate(over="ignore", invalid="ignore"):
            second = np.matmul(x.swapaxes(1, 2), x)
        if not np.isfinite(second).all():
            raise CalibrationError("the inputs hold NaN or infinity, or numbers that are too large", "mend the model")
        self.rows += x.shape[1]
        ones = np.ones((1, 1, x.shape[1]), np.float32)
        self._first += np.matmul(ones, x)[:, 0]
        self._second += second
        if y is not None:
            self._float_first += np.matmul(ones, y)[:, 0]
            self._cross += np.matmul(y.swapaxes(1, 2), x)

    def __add__(self, other: Moments) -> Moments:
        """Returns the moments of all that both saw; both paired, of one shape."""
        found = Moments(*self._first.shape, paired=True)
        found.rows = self.rows + other.rows
        found._first = self._first + other._first
        found._second = self._second + other._second
        found._float_first = self._float_first + other._float_first
        found._cross = self._cross + other._cross
        return found

    @property
    def mean(self) -> Array:
        """E[x], float64 [groups, inputs]."""
        return self._first / max(self.rows, 1)

    @property
    def float_mean(self) -> Array:
        """E[y], float64 [groups, inputs]."""
        return self._float_first / max(self.rows, 1)

    def second(self, *, centred: bool = False) -> Array:
        """Returns E[x xᵀ], float64 [groups, inputs, inputs]; `centred`, that of x − E[x]."""
        found = self._second / max(self.rows, 1)
        return found - _outer(self.mean, self.mean) if centred else found

    def cross(self, *, centred: bool = False) -> Array:
        """Returns E[y xᵀ], float64 [groups, inputs, inputs]; `centred`, that of both without their means."""
        found = self._cross / max(self.rows, 1)
        return found - _outer(self.float_mean, self.mean) if centred else found


def damped(second: Array, percent: float) -> Array:
    """Returns second moments with `percent` (0.01: a hundredth) of the mean of the diagonal added to the diagonal.

    An input that is always 0 gets a diagonal of 1. Where the matrix is still not positive definite (fewer samples than
    inputs and no damping, or means so far above the deviations that rounding is all that is left), ten times as much is
    added, and so on.
    """
    while True:
        found = _with_diagonal(second, percent)
        try:
            np.linalg.cholesky(found)
        except np.linalg.LinAlgError:
            percent = max(10 * percent, _LEAST_DAMPING)
        else:
            return found


def _with_diagonal(second: Array, percent: float) -> Array:
    places = np.arange(second.shape[-1])
    diagonal = np.maximum(second[:, places, places], 0)
    alive = diagonal > 0
    found = np.where(alive[:, :, None] & alive[:, None, :], second, 0.0)
    added = percent * diagonal.mean(axis=1, keepdims=True)
    found[:, places, places] = np.where(alive, diagonal + added, 1.0)
    return found


def squared_error(change: Array, second: Array) -> float:
    """Returns tr(ΔW H ΔWᵀ) of a change [groups, outputs, inputs]: the mean squared error, summed over outputs."""
    return float(np.sum(np.matmul(change, second) * change))


def _outer(left: Array, right: Array) -> Array:
    return left[:, :, None] * right[:, None, :]
