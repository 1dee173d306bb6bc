"""A few of the samples that calibration runs, kept to judge results by: spread evenly over a stream of any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.sources import shared_rows

Array = NDArray[Any]
Feed = Mapping[str, Array]

MOST_KEPT, MOST_BYTES = 32, 64_000_000
"""Feeds in memory at a time, and their bytes; one feed is kept however large it is."""

MOST_JUDGED, FEWEST_JUDGED, SHARE_JUDGED = 16, 4, 8
"""Of all samples one in eight, but not fewer than 4 where there are as many, and not more than 16."""


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
