"""Statistics as a few arrays and back: what belongs to channels stands for all tensors one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.extremes import KEPT, RecentExtremes
from quantonnx.calibration.statistics import HALF_BINS, ChannelExtremes, ChannelMeans, TensorStatistics
from quantonnx.calibration.summing import ExactSum

Array = NDArray[Any]
Arrays = Mapping[str, Array]


def pack_tensors(tensors: Mapping[str, TensorStatistics]) -> dict[str, Array]:
    """Return statistics as arrays with a row for each tensor; `recent` has those of all, one after the other."""
    every = list(tensors.values())
    histograms = [stats.counts for stats in every if stats.counts is not None]
    return {
        "extremes": np.array([(stats.low, stats.high) for stats in every], np.float64).reshape(-1, 2),
        "samples": np.array([stats.samples for stats in every], np.int64),
        "count": np.array([stats.count for stats in every], np.int64),
        "exponent": np.array([stats.exponent for stats in every], np.int64),
        "has_histogram": np.array([stats.counts is not None for stats in every], np.bool_),
        "histograms": np.array(histograms, np.int64).reshape(-1, 2 * HALF_BINS),
        "recent": np.concatenate([np.zeros((0, 2), np.float32), *(stats.recent.newest for stats in every)]),
        "older": np.array([stats.recent.older for stats in every], np.int64),
        "older_sum": np.array([stats.recent.older_sum.high for stats in every], np.float64).reshape(-1, 2),
        "older_rest": np.array([stats.recent.older_sum.low for stats in every], np.float64).reshape(-1, 2),
    }


def unpack_tensors(names: Sequence[str], arrays: Arrays) -> dict[str, TensorStatistics]:
    """Return the statistics of the tensors `names`; ValueError or KeyError where the arrays do not fit together."""
    count = len(names)
    older_rest = arrays.get("older_rest", np.zeros((count, 2)))  # files of earlier versions have none
    pairs = arrays["extremes"], arrays["older_sum"], older_rest
    extremes, older_sum, older_rest = (_checked(array, "float64", (count, 2)) for array in pairs)
    samples, values, exponents, older = (
        _checked(arrays[key], "int64", (count,)) for key in ("samples", "count", "exponent", "older")
    )
    flags = _checked(arrays["has_histogram"], "bool", (count,))
    histograms = iter(_checked(arrays["histograms"], "int64", (int(flags.sum()), 2 * HALF_BINS)))
    kept = samples - older
    if (older < 0).any() or (kept < 0).any() or (kept > KEPT).any():
        raise ValueError("numbers of samples")
    recent = np.split(_checked(arrays["recent"], "float32", (int(kept.sum()), 2)), np.cumsum(kept)[:-1])
    sums = [ExactSum(high.copy(), low.copy()) for high, low in zip(older_sum, older_rest, strict=True)]
    made = {}
    for index, name in enumerate(names):
        stats = made[name] = TensorStatistics(name, histogram=False)
        stats.low, stats.high = extremes[index].tolist()
        stats.samples, stats.count = int(samples[index]), int(values[index])
        stats.exponent = int(exponents[index])
        stats.counts = next(histograms).copy() if flags[index] else None
        stats.recent = RecentExtremes.restored(recent[index], int(older[index]), sums[index])
    return made


def pack_means(means: Mapping[str, ChannelMeans]) -> dict[str, Array]:
    """Return channel means as arrays: `mean_sums` has the channels of all tensors, one after the other."""
    return {
        "mean_samples": np.array([mean.samples for mean in means.values()], np.int64),
        "mean_channels": np.array([mean.sums.high.size for mean in means.values()], np.int64),
        "mean_sums": np.concatenate([np.zeros(0), *(mean.sums.high.reshape(-1) for mean in means.values())]),
        "mean_rests": np.concatenate([np.zeros(0), *(mean.sums.low.reshape(-1) for mean in means.values())]),
    }


def unpack_means(names: Sequence[str], arrays: Arrays) -> dict[str, ChannelMeans]:
    """Return the means of the tensors `names`; ValueError or KeyError where the arrays do not fit together."""
    samples, channels = (_checked(arrays[key], "int64", (len(names),)) for key in ("mean_samples", "mean_channels"))
    rests = arrays.get("mean_rests", np.zeros_like(arrays["mean_sums"]))  # files of earlier versions have none
    both = [_checked(array, "float64", (int(channels.sum()),)) for array in (arrays["mean_sums"], rests)]
    if (channels < 0).any():
        raise ValueError("numbers of channels")
    high, low = (np.split(array, np.cumsum(channels)[:-1]) for array in both)
    return {name: ChannelMeans(int(samples[i]), ExactSum(high[i], low[i])) for i, name in enumerate(names)}


def pack_channels(channels: Mapping[str, ChannelExtremes]) -> dict[str, Array]:
    """Return the extremes of channels as arrays: `channel_extremes` has (low, high) of the channels of all tensors."""
    extremes = [np.stack([found.low, found.high], axis=-1).reshape(-1, 2) for found in channels.values()]
    return {
        "channel_samples": np.array([found.samples for found in channels.values()], np.int64),
        "channel_count": np.array([len(found) for found in extremes], np.int64),
        "channel_extremes": np.concatenate([np.zeros((0, 2)), *extremes]).astype(np.float32),
    }


def unpack_channels(names: Sequence[str], arrays: Arrays) -> dict[str, ChannelExtremes]:
    """Return the extremes of the tensors `names`; ValueError or KeyError where the arrays do not fit together."""
    samples, counts = (_checked(arrays[key], "int64", (len(names),)) for key in ("channel_samples", "channel_count"))
    if (counts < 0).any():
        raise ValueError("numbers of channels")
    extremes = _checked(arrays["channel_extremes"], "float32", (int(counts.sum()), 2))
    made = {}
    for name, seen, part in zip(names, samples.tolist(), np.split(extremes, np.cumsum(counts)[:-1]), strict=False):
        found = made[name] = ChannelExtremes(name)
        found.samples, found.low, found.high = seen, part[:, 0].copy(), part[:, 1].copy()
    return made


def _checked(array: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return an array whose type and shape are the expected ones, and whose numbers are finite."""
    if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{array.dtype} {array.shape}")
    return array
