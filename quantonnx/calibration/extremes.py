"""The extremes of each sample, from which a moving average with any constant can be taken afterwards.

The newest 4096 samples are kept one by one, of older ones their mean: exact for every constant up to that many
samples, and beyond as if each older sample had had the mean of the older ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.summing import ExactSum

Array = NDArray[Any]

KEPT = 4096
"""Samples whose extremes are kept, in 32 kB."""


class RecentExtremes:
    """The (low, high) of samples in their order: float32 for the newest KEPT, a float64 sum of the others."""

    def __init__(self) -> None:
        self.older = 0
        self.older_sum = ExactSum(np.zeros(2))
        self._ring: Array = np.zeros((16, 2), np.float32)
        self._kept = 0
        self._next = 0

    @classmethod
    def restored(cls, newest: Array, older: int, older_sum: ExactSum) -> RecentExtremes:
        """Return what was saved: float32 [samples, 2] of the newest, the oldest first, and the others' number and
        sum."""
        made = cls()
        made._add_all(newest)
        made.older, made.older_sum = older, older_sum
        return made

    @property
    def newest(self) -> Array:
        """The newest samples, the oldest of them first, float32 [samples, 2]."""
        return np.roll(self._ring, -self._next, axis=0) if self._kept == KEPT else self._ring[: self._kept].copy()

    def add(self, low: float, high: float) -> None:
        """Add the extremes of one sample."""
        if self._kept == KEPT:
            self.older_sum.add(self._ring[self._next].astype(np.float64))
            self.older, self._kept = self.older + 1, self._kept - 1
        elif self._kept == len(self._ring):
            self._ring = np.concatenate([self._ring, np.zeros_like(self._ring)])
        self._ring[self._next] = low, high
        self._next, self._kept = (self._next + 1) % KEPT, self._kept + 1

    def merge(self, other: RecentExtremes) -> None:
        """Add what `other` has, as if it came after these."""
        newest = other.newest
        if other.older:
            for extremes in self.newest.astype(np.float64):
                self.older_sum.add(extremes)
            self.older_sum.merge(other.older_sum)
            self.older += self._kept + other.older
            self._kept = self._next = 0
        self._add_all(newest)

    def average(self, constant: float) -> tuple[float, float]:
        """Return the exponential moving average of lows and highs, the newest sample having the weight `constant`
        (0 < constant ≤ 1).

        The weights are divided by their sum, which is below 1 while samples are few (Kingma and Ba, "Adam", ICLR 2015,
        section 3). Without samples it is (0, 0).
        """
        newest = self.newest.astype(np.float64)
        if not len(newest):
            return 0.0, 0.0
        weights = (1 - constant) ** np.arange(len(newest) - 1, -1, -1.0)
        beyond = self._weight_of_older(constant)
        sums = weights @ newest + beyond * self.older_sum.value / max(self.older, 1)
        low, high = (sums / (weights.sum() + beyond)).tolist()
        return low, high

    def _add_all(self, newest: Array) -> None:
        for low, high in newest.tolist():
            self.add(low, high)

    def _weight_of_older(self, constant: float) -> float:
        """The sum of (1 − constant)^age over the ages beyond what is kept."""
        if not self.older or constant == 1:
            return 0.0
        log_keep = math.log1p(-constant)
        return math.exp(self._kept * log_keep) * -math.expm1(self.older * log_keep) / constant
