"""What calibration remembers of a tensor: extremes, those of each sample, and a histogram.

Numpy only, one pass, constant memory. Two statistics of one tensor merge into what one pass over both would
have given, and the result does not depend on how samples are grouped into batches.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.extremes import RecentExtremes
from quantonnx.calibration.summing import ExactSum
from quantonnx.errors import CalibrationError

Array = NDArray[Any]
Range = tuple[float, float]

_HALF_EXPONENT = 12
HALF_BINS = 1 << _HALF_EXPONENT
"""Bins on each side of zero: at least 2048 of them between zero and the value farthest from it."""

COUNTED_PER_SAMPLE = 16384
"""Of a sample with twice as many values or more, about this many evenly spaced ones are counted, and the tails."""

_SMALLEST_EXPONENT = -100
_TAIL_SHARE = 512


class TensorStatistics:
    """The running statistics of one tensor over samples.

    `low` ≤ 0 ≤ `high` are the exact extremes of everything seen and of 0, which every format represents.
    The histogram has 2·HALF_BINS linear bins over [−R, R), R being the smallest power of two above both
    extremes: when R doubles, pairs of bins merge, so that order does not matter. Of a large sample it counts
    evenly spaced values, weighted by their distance, and each of about the 0.2 % largest magnitudes: tails
    are exact to the width of a bin, R/HALF_BINS, and the density of the body has a relative error of about
    1/√(values counted).
    """

    def __init__(self, name: str, *, histogram: bool = True) -> None:
        self.name = name
        self.low = 0.0
        self.high = 0.0
        self.samples = 0
        self.count = 0
        self.counts = np.zeros(2 * HALF_BINS, np.int64) if histogram else None
        self.exponent = _SMALLEST_EXPONENT
        self.recent = RecentExtremes()

    @property
    def edges(self) -> Array:
        """The float64 edges of the histogram's bins, one more than there are bins."""
        return np.ldexp(np.arange(-HALF_BINS, HALF_BINS + 1) / HALF_BINS, self.exponent)

    def average(self, constant: float) -> Range:
        """Return the moving averages of the samples' minima and of their maxima (and 0), the newest sample having the
        weight `constant`, above 0 and at most 1."""
        return self.recent.average(constant)

    def update(self, array: Array, rows: int = 1) -> None:
        """Add a tensor that holds `rows` samples along axis 0; raises CalibrationError on NaN or infinity."""
        values = np.ascontiguousarray(array).reshape(rows, -1)
        if not values.size:
            return
        if values.dtype != np.float32:
            values = values.astype(np.float32)
        self.add_extremes(values.min(axis=1), values.max(axis=1))
        self.add_values(values)

    def add_extremes(self, lows: Array, highs: Array) -> None:
        """Add each sample's minimum and maximum; raises CalibrationError on NaN or infinity."""
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CalibrationError(
                    f"tensor {self.name!r} holds NaN or infinity in sample {self.samples}, expected finite numbers",
                    "check the sample, or keep this tensor in float",
                )
            low, high = min(low, 0.0) + 0.0, max(high, 0.0)  # no −0
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.samples += 1
            self.recent.add(low, high)

    def add_values(self, values: Array, weight: int = 1) -> None:
        """Count float32 [samples, values] in the histogram, each `weight` times, after their extremes."""
        self.count += values.size * weight
        if self.counts is None:
            return
        self._grow(_exponent_above(max(-self.low, self.high)))
        stride = _stride(values.shape[1])
        if stride == 1:
            self._count(values.reshape(-1), weight)
            return
        for row in values:
            spaced = row[stride // 2 :: stride]
            self._count(spaced, weight * stride)
            threshold = _tail_threshold(spaced)
            self._count_few(_beyond(spaced, threshold), -weight * stride)
            self._count_few(_beyond(row, threshold), weight)

    def merge(self, other: TensorStatistics) -> None:
        """Add what `other` saw, as if it came after these samples; CalibrationError if only one has a histogram."""
        if (self.counts is None) != (other.counts is None):
            raise CalibrationError(f"cannot merge statistics of {self.name!r}: only one has a histogram")
        self.recent.merge(other.recent)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.samples += other.samples
        self.count += other.count
        if self.counts is not None and other.counts is not None:
            self._grow(other.exponent)
            self.counts += _folded(other.counts, self.exponent - other.exponent)

    def _grow(self, exponent: int) -> None:
        if self.counts is not None and exponent > self.exponent:
            self.counts = _folded(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _bins(self, values: Array) -> Array:
        scaled = values * np.float32(math.ldexp(HALF_BINS, -self.exponent))
        bins = np.floor(scaled, out=scaled).astype(np.intp)
        if self.exponent > _HALF_EXPONENT:  # the smallest negative numbers have become 0 by the scale
            bins[(bins == 0) & (values < 0)] = -1
        bins += HALF_BINS
        return bins

    def _count(self, values: Array, weight: int) -> None:
        assert self.counts is not None
        found = np.bincount(self._bins(values), minlength=2 * HALF_BINS)
        if weight != 1:
            found *= weight
        self.counts += found

    def _count_few(self, values: Array, weight: int) -> None:
        assert self.counts is not None
        np.add.at(self.counts, self._bins(values), weight)


class ChannelMeans:
    """The running mean of each channel of one tensor over samples: exact `sums`, one pass, mergeable in any order."""

    def __init__(self, samples: int = 0, sums: ExactSum | None = None) -> None:
        self.samples = samples
        self.sums = ExactSum() if sums is None else sums

    def update(self, means: Array) -> None:
        """Add the channel means of samples, [samples, channels]."""
        for row in means.astype(np.float64):
            self.sums.add(row)
        self.samples += len(means)

    def merge(self, other: ChannelMeans) -> None:
        """Add what `other` saw."""
        self.sums.merge(other.sums)
        self.samples += other.samples

    @property
    def mean(self) -> Array:
        """The mean of each channel, float64 [channels]."""
        return np.asarray(self.sums.value / max(self.samples, 1))


class ChannelExtremes:
    """The running minimum and maximum of each channel of one tensor, the last axis being the channels; mergeable.

    The mean square is not kept in files: it is 0 where nothing was seen.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.samples = 0
        self.low: Array = np.zeros(())
        self.high: Array = np.zeros(())
        self.values = 0
        self.squares: Array = np.zeros(())

    @property
    def mean_square(self) -> Array:
        """E[x²] of each channel, float64 [channels]."""
        return np.asarray(self.squares / max(self.values, 1))

    @property
    def maxima(self) -> Array:
        """The largest magnitude of each channel, float32 [channels]."""
        return np.maximum(-self.low, self.high)

    def update(self, array: Array, rows: int = 1) -> None:
        """Add a tensor [..., channels] that holds `rows` samples; CalibrationError on NaN or infinity."""
        values = array.reshape(-1, array.shape[-1])
        if not values.size:
            return
        low, high = values.min(axis=0).astype(np.float32), values.max(axis=0).astype(np.float32)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CalibrationError(
                f"tensor {self.name!r} holds NaN or infinity in sample {self.samples}, expected finite numbers",
                "check the sample, or keep this tensor in float",
            )
        self._add(low, high, rows)
        self._add_squares(np.square(values, dtype=np.float64).sum(axis=0), len(values))

    def merge(self, other: ChannelExtremes) -> None:
        """Add what `other` saw."""
        if other.samples:
            self._add(other.low, other.high, other.samples)
            self._add_squares(other.squares, other.values)

    def _add(self, low: Array, high: Array, rows: int) -> None:
        if self.samples:
            low, high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.low, self.high = low, high
        self.samples += rows

    def _add_squares(self, squares: Array, values: int) -> None:
        self.squares, self.values = self.squares + squares, self.values + values


def _exponent_above(magnitude: float) -> int:
    """Return the smallest exponent of a power of two that is greater than `magnitude`."""
    return max(math.frexp(magnitude)[1], _SMALLEST_EXPONENT) if magnitude else _SMALLEST_EXPONENT


def _folded(counts: Array, times: int) -> Array:
    """Return the counts over a range that is 2**times as wide."""
    for _ in range(times):
        wider = np.zeros_like(counts)
        wider[HALF_BINS // 2 : HALF_BINS // 2 + HALF_BINS] = counts.reshape(-1, 2).sum(axis=1)
        counts = wider
    return counts


@lru_cache(maxsize=4096)
def _stride(size: int) -> int:
    """Return the distance of evenly spaced values: odd, and coprime to `size` so that no channel is missed."""
    stride = max(size // COUNTED_PER_SAMPLE, 1)
    if stride > 1:
        stride |= 1
        while math.gcd(stride, size) > 1:
            stride += 2
    return stride


def _tail_threshold(spaced: Array) -> float:
    """Return a magnitude that about one value in _TAIL_SHARE exceeds, from a quarter of the values."""
    magnitudes = np.abs(spaced[::4])
    rank = max(magnitudes.size // _TAIL_SHARE, 1)
    return float(np.partition(magnitudes, -rank)[-rank])


def _beyond(values: Array, threshold: float) -> Array:
    above = values[np.flatnonzero(values > threshold)]
    if values.min() >= -threshold:
        return above
    return np.concatenate([above, values[np.flatnonzero(values < -threshold)]])
