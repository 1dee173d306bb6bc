"""All that calibration remembers of a model, as one value: saved, loaded and merged, so that another method or another
configuration costs no inference."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration import archive
from quantonnx.calibration.packing import (
    pack_channels,
    pack_means,
    pack_tensors,
    unpack_channels,
    unpack_means,
    unpack_tensors,
)
from quantonnx.calibration.statistics import ChannelExtremes, ChannelMeans, TensorStatistics
from quantonnx.errors import CalibrationError

Array = NDArray[Any]
Remembered = TypeVar("Remembered", TensorStatistics, ChannelMeans, ChannelExtremes)


@dataclass(frozen=True)
class DataSource:
    """Some of the samples behind statistics: a name without folders or "", their number, the SHA-256 of the values."""

    name: str
    samples: int
    digest: str


@dataclass(frozen=True)
class Statistics:
    """What calibration saw: statistics, channel means and extremes of channels by tensor; why a tensor has none
    (`refused`).

    `model` is the SHA-256 of the float model's file, `data` what the samples were, in order.
    """

    model: str
    tensors: dict[str, TensorStatistics]
    means: dict[str, ChannelMeans] = field(default_factory=dict)
    channels: dict[str, ChannelExtremes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    data: tuple[DataSource, ...] = ()

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(source.samples for source in self.data)

    def channel_means(self) -> dict[str, Array]:
        """Return E[x] of each channel by tensor, float64 [channels], for bias correction."""
        return {name: means.mean for name, means in self.means.items()}

    def channel_maxima(self) -> dict[str, Array]:
        """Return the largest magnitude of each channel by tensor, float32 [channels], for smoothing."""
        return {name: extremes.maxima for name, extremes in self.channels.items()}

    def require(self, model: str, tensors: Iterable[str]) -> Mapping[str, TensorStatistics]:
        """Return the statistics by tensor; CalibrationError where they are of another model, `model` being the digest
        of the one in hand, or where one of `tensors` is missing."""
        if model != self.model:
            raise CalibrationError(
                f"the statistics are of another model: SHA-256 {self.model[:12]}…, this one has {model[:12]}…",
                "collect statistics of this one",
            )
        for name in tensors:
            if name in self.refused:
                raise CalibrationError(f"tensor {name!r} has no statistics: {self.refused[name]}", "keep it in float")
            if name not in self.tensors:
                hint = "collect statistics of this model again, for this target"
                raise CalibrationError(f"the statistics have no tensor {name!r}", hint)
        return self.tensors

    def merged(self, other: Statistics) -> Statistics:
        """Return what one pass over the data of this and then of `other` would have seen.

        A tensor that only one of them has is refused. Raises CalibrationError for those of another model.
        """
        if other.model != self.model:
            raise CalibrationError(
                f"statistics of two models do not merge: SHA-256 {self.model[:12]}… and {other.model[:12]}…",
                "give files that were collected from one model",
            )
        refused = other.refused | self.refused
        alone = sorted((self.tensors.keys() ^ other.tensors.keys()) - refused.keys())
        refused |= dict.fromkeys(alone, "only some of the merged statistics have it")
        tensors = {name: stats for name, stats in self.tensors.items() if name not in refused}
        return Statistics(
            self.model,
            _both(tensors, other.tensors),
            _both(self.means, other.means),
            _both(self.channels, other.channels),
            refused,
            self.data + other.data,
        )

    def same_numbers(self, other: Statistics) -> bool:
        """Return whether both remember the same of the same tensors, to the last bit; where the data came from, and
        channels, do not count."""
        if (list(self.tensors), list(self.means)) != (list(other.tensors), list(other.means)):
            return False
        mine, theirs = (pack_tensors(each.tensors) | pack_means(each.means) for each in (self, other))
        return all(np.array_equal(mine[key], theirs[key]) for key in mine)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write one .npz without pickle, whole or not at all, the same bytes for the same statistics.

        OutputError where it exists (unless `force`) or the disk refuses.
        """
        header = {
            "model": self.model,
            "data": [asdict(source) for source in self.data],
            "tensors": list(self.tensors),
            "means": list(self.means),
            "channels": list(self.channels),
            "refused": self.refused,
        }
        arrays = pack_tensors(self.tensors) | pack_means(self.means) | pack_channels(self.channels)
        archive.write(Path(path), header, arrays, force=force)

    @staticmethod
    def load(*paths: str | os.PathLike[str]) -> Statistics:
        """Return what was saved, that of several files merged; CalibrationError says what is wrong with a file."""
        if not paths:
            raise CalibrationError("there is no statistics file", "name at least one")
        first, *others = (_load(Path(path)) for path in paths)
        for other in others:
            first = first.merged(other)
        return first


def _both(ours: dict[str, Remembered], theirs: dict[str, Remembered]) -> dict[str, Remembered]:
    merged = {name: deepcopy(mine) for name, mine in ours.items() if name in theirs}
    for name, mine in merged.items():
        mine.merge(theirs[name])
    return merged


def _load(path: Path) -> Statistics:
    header, arrays = archive.read(path)
    try:
        return Statistics(
            str(header["model"]),
            unpack_tensors(header["tensors"], arrays),
            unpack_means(header["means"], arrays),
            unpack_channels(header["channels"], arrays),
            dict(header["refused"]),
            tuple(DataSource(**source) for source in header["data"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise archive.damaged(path) from error
