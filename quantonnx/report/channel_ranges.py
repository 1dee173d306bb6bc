"""The range of each channel of a weight beside the range of its codes, in few enough points for a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantonnx.formats import Parameters
from quantonnx.sites import Site

Array = np.ndarray[Any, Any]

MOST_POINTS = 1024
_DIGITS = 6


@dataclass(frozen=True)
class ChannelRanges:
    """For each channel (or group) its smallest and largest value, and the numbers at the ends of its codes.

    Of more than MOST_POINTS channels, `step` stand behind one point, their extremes together. `before` are the values'
    extremes before the recipe, empty where it changed nothing.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    range_low: tuple[float, ...]
    range_high: tuple[float, ...]
    step: int = 1
    before: tuple[tuple[float, ...], tuple[float, ...]] | tuple[()] = ()


def channel_ranges(values: Array, site: Site, numbers: Parameters, before: Array | None = None) -> ChannelRanges:
    """Returns the ranges of a weight; one of a single scale is shown by its output channels all the same."""
    extremes = _extremes(values, site)
    size = extremes[0].size
    step = -(-size // MOST_POINTS)
    low, high = _thinned(extremes, step)
    range_low, range_high = _thinned(_ends(site, numbers, size), step)
    earlier = None if before is None or before.shape != values.shape else _extremes(before, site)
    changed = earlier is not None and not all(map(np.array_equal, earlier, extremes))
    was = _thinned(earlier, step) if earlier is not None and changed else ()
    return ChannelRanges(low, high, range_low, range_high, step, was)


def _extremes(values: Array, site: Site) -> tuple[Array, Array]:
    fmt = site.format
    if fmt.axis is None and site.channel_axis is not None and values.ndim:
        fmt = replace(fmt, axis=site.channel_axis)
    low, high = fmt.extremes(values.astype(np.float32, copy=False))
    return low.reshape(-1), high.reshape(-1)


def _ends(site: Site, numbers: Parameters, size: int) -> tuple[Array, Array]:
    """A single scale holds for every channel."""
    scale = numbers.scale.astype(np.float64).reshape(-1)
    zero = numbers.zero_point.astype(np.float64).reshape(-1)
    whole = np.ones(size) if scale.size == 1 else 1.0
    return (site.format.qmin - zero) * scale * whole, (site.format.qmax - zero) * scale * whole


def _thinned(ends: tuple[Array, Array], step: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Takes the smallest of `step` low ends, and the largest of as many high ones."""
    low, high = ends
    if step > 1:
        firsts = np.arange(0, low.size, step)
        low, high = np.minimum.reduceat(low, firsts), np.maximum.reduceat(high, firsts)
    return _rounded(low), _rounded(high)


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())
