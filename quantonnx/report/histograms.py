"""Histograms that are small enough for a page: few bins over the values that occurred, and what a range cuts off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantonnx.calibration.statistics import TensorStatistics

MOST_BINS = 256


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of one `width`, the first of which begins at `start`.

    `seen` are the exact smallest and largest value and 0; of large tensors evenly spaced values are counted.
    """

    start: float
    width: float
    counts: tuple[int, ...]
    seen: tuple[float, float]


def histogram_of(stats: TensorStatistics) -> Histogram | None:
    """Returns the histogram of a tensor in at most MOST_BINS bins; None where none was kept, or nothing was seen."""
    if stats.counts is None or not stats.count:
        return None
    occupied = np.flatnonzero(stats.counts)
    first, last = int(occupied[0]), int(occupied[-1])
    merged = 1
    while last // merged - first // merged >= MOST_BINS:
        merged *= 2
    counts = stats.counts.reshape(-1, merged).sum(axis=1)[first // merged : last // merged + 1]
    edges = stats.edges
    width = float(edges[merged] - edges[0])
    start = float(edges[first // merged * merged])
    return Histogram(start, width, tuple(counts.tolist()), (stats.low, stats.high))


def beyond(stats: TensorStatistics, low: float, high: float) -> tuple[float, float]:
    """Returns the shares of values below `low` and above `high`, values being spread evenly within their bins."""
    if stats.counts is None or not stats.count:
        return 0.0, 0.0
    cumulated = np.concatenate([[0.0], np.cumsum(stats.counts, dtype=np.float64)])
    total = max(float(cumulated[-1]), 1.0)
    below = 0.0 if low <= stats.low else float(np.interp(low, stats.edges, cumulated)) / total
    above = 0.0 if high >= stats.high else 1.0 - float(np.interp(high, stats.edges, cumulated)) / total
    return below, above
