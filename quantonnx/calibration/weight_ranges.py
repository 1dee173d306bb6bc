"""From the values of a weight to the range that its codes will cover, for each channel or group by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.formats import TensorFormat, in_groups

Array = NDArray[Any]
Ends = tuple[Array, Array]

_SHARES = np.concatenate([[1.0], np.geomspace(0.05, 0.3, 8, endpoint=False), np.linspace(0.3, 0.98, 36), [1.42]])
"""Of the whole range; the one above it, √2, is for scales that are powers of two."""
_NUDGES = np.concatenate([[1.0], np.linspace(0.98, 1.02, 8)])
_BLOCK = 1 << 16


def least_error_range(values: Array, fmt: TensorFormat) -> Ends:
    """Returns the range of least squared error, rounding and clipping together, shaped as by `TensorFormat.extremes`.

    Both ends shrink together, and where the format is asymmetric then each by itself, through about 50 (130)
    candidates. The whole range is one of them, so that the result is never worse.
    """
    whole = fmt.extremes(values)
    search = _Search(_in_rows(values, fmt), fmt)
    flat = whole[0].reshape(-1), whole[1].reshape(-1)
    low, high = search.asymmetric(flat) if not fmt.symmetric else search.scaled(search.scaled(flat, _SHARES), _NUDGES)
    return low.reshape(whole[0].shape), high.reshape(whole[0].shape)


def _in_rows(values: Array, fmt: TensorFormat) -> Array:
    """Returns the values as [scales, values of a scale]."""
    if fmt.axis is None:
        return values.reshape(1, -1)
    if fmt.group_size is None:
        return np.moveaxis(values, fmt.axis, 0).reshape(values.shape[fmt.axis], -1)
    grouped, places = in_groups(values, fmt.axis, fmt.group_size)
    return np.moveaxis(grouped, places, -1).reshape(-1, fmt.group_size)


class _Search:
    """Tries ranges for every row at once and keeps the best of each."""

    def __init__(self, rows: Array, fmt: TensorFormat) -> None:
        self.rows = rows
        self.fmt = fmt

    def scaled(self, ends: Ends, factors: Array, *, which: tuple[bool, bool] = (True, True)) -> Ends:
        """Returns the best of the ranges whose ends, those of `which`, are multiplied by a factor."""
        low, high = (
            end * (factors[:, None] if moves else np.ones((len(factors), 1)))
            for end, moves in zip(ends, which, strict=True)
        )
        best = np.argmin(self._errors(low, high), axis=0)[None]
        return np.take_along_axis(low, best, 0)[0], np.take_along_axis(high, best, 0)[0]

    def asymmetric(self, whole: Ends) -> Ends:
        """Returns the best range whose ends moved together, then each by itself, coarse steps before fine ones."""
        found = self.scaled(whole, _SHARES)
        for factors in (_SHARES[::2], _NUDGES):
            for which in ((False, True), (True, False)):
                found = self.scaled(found, factors, which=which)
        return found

    def _errors(self, low: Array, high: Array) -> Array:
        """The squared error of each row, [candidates, rows], float64."""
        numbers = self.fmt.parameters(low, high)
        scale, zero_point = numbers.scale.astype(np.float32), numbers.zero_point.astype(np.float32)
        lowest, highest = self.fmt.qmin - zero_point, self.fmt.qmax - zero_point
        errors = np.zeros(scale.shape)
        for rows, columns in self._blocks():
            values = self.rows[rows, columns]
            for index in range(len(scale)):
                bounds = lowest[index, rows, None], highest[index, rows, None]
                errors[index, rows] += _squared(values / scale[index, rows, None], *bounds)
        return np.asarray(errors * scale.astype(np.float64) ** 2)

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Parts of the rows that stay in the cache while all candidates are tried."""
        count, length = self.rows.shape
        wide = min(length, _BLOCK)
        high = max(_BLOCK // max(wide, 1), 1)
        for top in range(0, count, high):
            for left in range(0, length, max(wide, 1)):
                yield slice(top, top + high), slice(left, left + wide)


def _squared(steps: Array, lowest: Array, highest: Array) -> Array:
    codes = np.rint(steps)
    np.clip(codes, lowest, highest, out=codes)
    steps -= codes
    return np.asarray(np.einsum("ij,ij->i", steps, steps))
