"""From the statistics of a tensor to the range that its codes will cover: a function for each method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.methods import Method, RangeMethod, parse_method
from quantonnx.calibration.statistics import HALF_BINS, Range, TensorStatistics
from quantonnx.errors import CalibrationError
from quantonnx.formats import TensorFormat

__all__ = ["Method", "RangeMethod", "choose_range", "parse_method"]

Array = NDArray[Any]


MSE_BINS = 2048
"""Bins over which errors are summed, unless the method says another number."""


def choose_range(stats: TensorStatistics, method: RangeMethod, fmt: TensorFormat) -> Range:
    """Return the (low, high) that the codes of `fmt` shall cover; low ≤ 0 ≤ high. AUTO is MSE to a single tensor.

    Raises CalibrationError when the tensor saw no data, or the method needs a histogram that was not kept.
    """
    if stats.samples == 0:
        raise CalibrationError(
            f"tensor {stats.name!r} saw no data, expected at least one sample", "give samples that reach it"
        )
    if method.kind is Method.MINMAX or stats.low == stats.high:
        return stats.low, stats.high
    if method.kind is Method.MOVING_AVERAGE:
        return stats.average(method.averaging_constant)
    if stats.counts is None:
        raise CalibrationError(f"tensor {stats.name!r} has no histogram, which {method.kind.value!r} needs")
    if method.kind is Method.PERCENTILE:
        return _percentile_range(stats, method.percentile, fmt)
    if method.kind is Method.ENTROPY:
        return _entropy_range(stats, fmt, method.bins or HALF_BINS)
    return _mse_range(stats, fmt, method.bins or MSE_BINS)


def _percentile_range(stats: TensorStatistics, percentile: float, fmt: TensorFormat) -> Range:
    """Cut the largest magnitudes (symmetric), or an equal share of values at both ends (asymmetric)."""
    assert stats.counts is not None
    positive, negative = stats.counts[HALF_BINS:], stats.counts[:HALF_BINS][::-1]
    above = stats.count * (1 - percentile / 100)
    width = float(stats.edges[-1]) / HALF_BINS
    if fmt.symmetric:
        return _clipped(stats, _upper_quantile(positive + negative, above) * width)
    if stats.low < 0 < stats.high:
        above /= 2
    low, high = (_upper_quantile(side, above) * width for side in (negative, positive))
    return max(stats.low, -low), min(stats.high, high)


def _upper_quantile(counts: Array, above: float) -> float:
    """Return the position, in bins, beyond which `above` values lie; linear within a bin."""
    from_top = np.cumsum(counts[::-1])
    if above >= from_top[-1]:
        return 0.0
    index = int(np.searchsorted(from_top, above, side="right"))
    inside = counts[::-1][index]
    return len(counts) - index - float(above - (from_top[index] - inside)) / float(inside)


def _clipped(stats: TensorStatistics, threshold: float) -> Range:
    return max(stats.low, -threshold), min(stats.high, threshold)


def _entropy_range(stats: TensorStatistics, fmt: TensorFormat, bins: int) -> Range:
    """Clip magnitudes where the codes lose least information about them.

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017: the candidate threshold whose reference
    distribution P (outliers in its last bin) has the smallest Kullback-Leibler divergence from Q, its bins merged
    into as many levels as there are codes for a magnitude and spread again over the occupied ones. Values in the
    bin at zero are left out, since zero is exact in every format. Needs more bins than levels, else clips nothing.
    """
    assert stats.counts is not None
    counts = (stats.counts[HALF_BINS:] + stats.counts[:HALF_BINS][::-1]).astype(np.float64)
    merged = _merged(0, int(np.flatnonzero(counts)[-1]), bins)
    counts = counts.reshape(-1, merged).sum(axis=1)
    occupied = int(np.flatnonzero(counts)[-1]) + 1
    levels = _levels(stats, fmt)
    if occupied <= levels:
        return stats.low, stats.high
    counts[0] = 0.0
    candidates = np.unique(np.linspace(levels, occupied, 256).astype(np.intp))
    divergence = _divergences(counts[:occupied], candidates, levels)
    best = int(candidates[np.argmin(divergence)])
    if best == occupied:
        return stats.low, stats.high
    return _clipped(stats, best * merged * float(stats.edges[-1]) / HALF_BINS)


def _merged(first: int, last: int, bins: int) -> int:
    """Return the power of two of bins to make one of, so that the bins `first` to `last` become at most `bins`."""
    merged = 1
    while last // merged - first // merged >= bins:
        merged *= 2
    return merged


def _levels(stats: TensorStatistics, fmt: TensorFormat) -> int:
    """Return how many codes the wider side of zero gets."""
    largest = max(-stats.low, stats.high)
    both_sides = fmt.symmetric and (fmt.signed or stats.low < 0)
    span = 2 * largest if both_sides else stats.high - stats.low
    return int(2**fmt.n_bits * largest / span)


def _divergences(counts: Array, candidates: Array, levels: int) -> Array:
    """Return KL(P || Q) for the first `candidates` bins merged into `levels` levels.

    By cumulative sums, as Q is constant on the occupied bins of a level:
    KL = Σ p·log p − Σ over levels of (mass of P in the level)·log(mass of Q / occupied bins).
    """
    total = counts.sum()
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    occupied = np.concatenate([[0], np.cumsum(counts > 0)])
    entropy = np.concatenate([[0.0], np.cumsum(_x_log_x(counts / total))])
    cuts = candidates[:, None] * np.arange(levels + 1) // levels
    kept, outliers, last = mass[candidates], total - mass[candidates], counts[candidates - 1]
    in_level = np.diff(mass[cuts], axis=1)
    bins = np.diff(occupied[cuts], axis=1)
    bins[:, -1] += (last == 0) & (outliers > 0)
    log_q = np.log(np.maximum(in_level, 1e-3) / np.maximum(bins, 1) / np.maximum(kept, 1e-3)[:, None])
    in_level[:, -1] += outliers
    reference = entropy[candidates] - _x_log_x(last / total) + _x_log_x((last + outliers) / total)
    divergence = reference - (in_level / total * log_q).sum(axis=1)
    return np.where(kept > 0, divergence, np.inf)


def _x_log_x(x: Array) -> Array:
    return x * np.log(np.maximum(x, 1e-300))


_SHRINKS = np.concatenate([np.geomspace(0.02, 0.25, 12, endpoint=False), np.linspace(0.25, 1, 31)])
_NUDGES = np.linspace(0.96, 1.04, 9)


def _mse_range(stats: TensorStatistics, fmt: TensorFormat, bins: int) -> Range:
    """Search for the range of least mean squared error, clipping and rounding together.

    First both ends shrink together, then, where the format is asymmetric and the data has two sides, each end by
    itself, then in finer steps. The range without clipping is a candidate, so that the result is never worse
    than minmax by the same histogram; an end at 0 stays there.
    """
    error = _ErrorMeasure(stats, fmt, bins)
    whole = stats.low, stats.high
    best = _best(error, _both_ends(whole, whole, _SHRINKS, fmt.symmetric))
    if fmt.symmetric or 0 in whole:
        return _best(error, _both_ends(whole, best, _NUDGES, fmt.symmetric))
    for end in (1, 0):
        best = _best(error, _one_end(best, end, whole[end] * _SHRINKS))
    for end in (1, 0):
        best = _best(error, _one_end(best, end, np.clip(best[end] * _NUDGES, *whole)))
    return best


def _best(error: Callable[[Array, Array], Array], ends: tuple[Array, Array]) -> Range:
    index = int(np.argmin(error(*ends)))
    return float(ends[0][index]), float(ends[1][index])


def _both_ends(whole: Range, start: Range, factors: Array, symmetric: bool) -> tuple[Array, Array]:
    """Return candidates for both ends: equal thresholds on magnitude, or both ends in proportion."""
    largest = max(-start[0], start[1])
    low, high = (-largest, largest) if symmetric else start
    return np.maximum(factors * low, whole[0]), np.minimum(factors * high, whole[1])


def _one_end(best: Range, end: int, values: Array) -> tuple[Array, Array]:
    """Return candidates for one end (0 low, 1 high), that of `best` among them; the other end stays."""
    moved = np.append(values, best[end])
    fixed = np.full_like(moved, best[1 - end])
    return (fixed, moved) if end else (moved, fixed)


class _ErrorMeasure:
    """The squared error of ranges, summed over a histogram whose values are spread evenly within their bins.

    The integral of (u − k)² for the code k nearest to u, saturated ones included, is k/12 + (u − k)³/3 in units
    of the scale, so that rounding and clipping are both exact, however wide a bin is against the scale.
    """

    def __init__(self, stats: TensorStatistics, fmt: TensorFormat, bins: int = MSE_BINS) -> None:
        assert stats.counts is not None
        occupied = np.flatnonzero(stats.counts)
        merged = _merged(int(occupied[0]), int(occupied[-1]), bins)
        first, last = occupied[0] // merged, occupied[-1] // merged + 1
        self.counts = stats.counts.reshape(-1, merged).sum(axis=1)[first:last].astype(np.float64)
        self.edges = stats.edges[::merged][first : last + 1]
        self.fmt = fmt

    def __call__(self, lows: Array, highs: Array) -> Array:
        parameters = self.fmt.parameters(lows, highs)
        scale = parameters.scale.astype(np.float64)[:, None]
        zero_point = parameters.zero_point.astype(np.float64)[:, None]
        position = self.edges / scale
        code = np.clip(np.rint(position), self.fmt.qmin - zero_point, self.fmt.qmax - zero_point)
        position -= code
        integral = position * position * position
        integral *= 4
        integral += code
        density: Array = self.counts / np.diff(self.edges)
        return (np.diff(integral, axis=1) @ density) * scale[:, 0] ** 3 / 12
