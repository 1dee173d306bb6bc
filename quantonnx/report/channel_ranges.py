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
    low, high = _extremes(values, site)
    ends = _ends(site, numbers, low.size)
    step = -(-low.size // MOST_POINTS)
    found = [_thinned(part, step, largest=largest) for part, largest in ((low, False), (high, True))]
    found += [_thinned(part, step, largest=largest) for part, largest in zip(ends, (False, True), strict=True)]
    earlier = None if before is None or before.shape != values.shape else _extremes(before, site)
    if earlier is None or (np.array_equal(earlier[0], low) and np.array_equal(earlier[1], high)):
        return ChannelRanges(*found, step=step)
    was = _thinned(earlier[0], step, largest=False), _thinned(earlier[1], step, largest=True)
    return ChannelRanges(*found, step=step, before=was)


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
    ends = (site.format.qmin - zero) * scale, (site.format.qmax - zero) * scale
    return tuple(np.broadcast_to(end, size) if end.size == 1 else end for end in ends)  # type: ignore[return-value]


def _thinned(values: Array, step: int, *, largest: bool) -> tuple[float, ...]:
    if step > 1:
        reduce = np.maximum if largest else np.minimum
        values = reduce.reduceat(values, np.arange(0, values.size, step))
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())
