"""Sums that do not depend on order: what rounding takes from a float64 is kept beside it and added again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ExactSum:
    """A sum of arrays in two float64 parts, `high` and what it leaves out, `low`.

    An addition has no error, and `low` rounds only where terms are 2⁵³ times as large as others (Knuth, "The Art of
    Computer Programming", volume 2, 4.2.2, theorem B). Below that, sums of parts add up to the same bits as one sum.
    """

    def __init__(self, high: Array | None = None, low: Array | None = None) -> None:
        self.high: Array = np.zeros(()) if high is None else high
        self.low: Array = np.zeros_like(self.high) if low is None else low

    @property
    def value(self) -> Array:
        """The sum, float64."""
        return np.asarray(self.high + self.low)

    def add(self, term: Array) -> None:
        """Adds an array."""
        total = self.high + term
        virtual = total - self.high
        self.low = self.low + ((self.high - (total - virtual)) + (term - virtual))
        self.high = total

    def merge(self, other: ExactSum) -> None:
        """Adds another sum."""
        self.add(other.high)
        self.low = self.low + other.low
