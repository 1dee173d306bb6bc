"""What a layer aims at once its inputs have changed: the float network's outputs, as far as samples bear them out.

The weight that comes nearest to the float outputs on changed inputs is a regression. From few samples it fits these and
no others (the 1280 inputs of a classifier see one row of each), so its damping is the one by which what each half of
the samples says holds best for the other half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.second_moments import Moments, damped, squared_error

Array = NDArray[Any]

DAMPINGS = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean of the diagonal of H, the least first."""

_WITHOUT_HALVES = 0.1


def aimed(weight: Array, moments: Moments, halves: tuple[Moments, Moments], *, centred: bool) -> Array:
    """Returns W + W E[(y − x) xᵀ] (H + λ)⁻¹, float64 [groups, outputs, inputs], with a λ by cross-validation.

    `moments` are those of the inputs x and of the float network's, y; `halves` those of each half of the samples. Where
    no λ holds for the other half, the weight itself is returned.
    """
    if not all(half.rows for half in halves):
        return np.asarray(weight + _correction(weight, moments, _WITHOUT_HALVES, centred=centred))
    errors = {percent: _error_on_others(weight, halves, percent, centred=centred) for percent in DAMPINGS}
    best = min(errors, key=errors.__getitem__)
    if errors[best] >= 0:
        return weight
    return np.asarray(weight + _correction(weight, moments, best, centred=centred))


def _error_on_others(weight: Array, halves: tuple[Moments, Moments], percent: float, *, centred: bool) -> float:
    """The squared error on each half of the correction that the other half asks for, less that of no correction."""
    found = 0.0
    for seen, other in (halves, halves[::-1]):
        change = _correction(weight, seen, percent, centred=centred)
        found += squared_error(change, other.second(centred=centred))
        found -= 2 * float(np.sum(change * _pull(weight, other, centred=centred)))
    return found


def _correction(weight: Array, moments: Moments, percent: float, *, centred: bool) -> Array:
    second = damped(moments.second(centred=centred), percent)
    pull = _pull(weight, moments, centred=centred)
    return np.asarray(np.linalg.solve(second, pull.swapaxes(1, 2)).swapaxes(1, 2))


def _pull(weight: Array, moments: Moments, *, centred: bool) -> Array:
    """W E[(y − x) xᵀ]."""
    return np.asarray(weight @ (moments.cross(centred=centred) - moments.second(centred=centred)))
