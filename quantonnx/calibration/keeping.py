"""A few of the samples that calibration runs, kept: the first of them, or some spread evenly over a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.samples import Samples
from quantonnx.calibration.sources import shared_rows

Array = NDArray[Any]
Feed = Mapping[str, Array]

MOST_KEPT, MOST_BYTES = 32, 64_000_000
"""Feeds in memory at a time, and their bytes; one feed is kept however large it is."""

MOST_JUDGED, FEWEST_JUDGED, SHARE_JUDGED = 16, 4, 8
"""Of all samples one in eight, but not fewer than 4 where there are as many, and not more than 16."""


class Replayed:
    """A stream that can be read once more, whose `first` samples were read before: `count` or more, where there are."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples = samples
        self._stream = iter(samples)
        self.first: list[Feed] = []
        rows = size = 0
        while rows < count and size < MOST_BYTES and (feed := next(self._stream, None)) is not None:
            self.first.append({name: np.array(value) for name, value in feed.items()})
            rows += shared_rows(feed)
            size += sum(value.nbytes for value in feed.values())

    def __iter__(self) -> Iterator[Feed]:
        yield from self.first
        yield from self._stream

    def __len__(self) -> int:
        return len(self._samples)


class KeptSamples:
    """Feeds 0, s, 2·s, … of a stream; where they become too many, every other one goes and s doubles."""

    def __init__(self) -> None:
        self._feeds: list[dict[str, Array]] = []
        self._stride = 1
        self._feeds_seen = 0
        self._rows_seen = 0

    def offer(self, feed: Feed) -> None:
        """Counts a feed, and keeps a copy of it where its turn has come."""
        if self._feeds_seen % self._stride == 0:
            self._feeds.append({name: np.array(value) for name, value in feed.items()})
        self._feeds_seen += 1
        self._rows_seen += shared_rows(feed)
        while len(self._feeds) > MOST_KEPT or (len(self._feeds) > 1 and self._bytes() > MOST_BYTES):
            self._feeds = self._feeds[::2]
            self._stride *= 2

    def spread(self) -> list[Feed]:
        """Returns some of the kept feeds, evenly spaced, with as many samples as are worth running again."""
        wanted = min(max(self._rows_seen // SHARE_JUDGED, FEWEST_JUDGED), MOST_JUDGED)
        rows_each = max(self._rows_seen // max(self._feeds_seen, 1), 1)
        count = min(max(wanted // rows_each, 1), len(self._feeds))
        return [self._feeds[index * len(self._feeds) // count] for index in range(count)]

    def _bytes(self) -> int:
        return sum(value.nbytes for feed in self._feeds for value in feed.values())
