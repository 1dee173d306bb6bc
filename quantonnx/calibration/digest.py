"""The digest of the samples that calibration saw: the same for the same samples in the same order, batched or not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class SampleDigest:
    """SHA-256 over samples as the model's inputs got them: of each in turn type, shape and bytes of every input."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = tuple(inputs)
        self._hash = hashlib.sha256("\0".join(self._inputs).encode())
        self.samples = 0

    def update(self, feed: Mapping[str, Array], rows: int) -> None:
        """Add a feed of `rows` samples along the first axis of every input."""
        arrays = [np.ascontiguousarray(feed[name]) for name in self._inputs if name in feed]
        for row in range(rows):
            for array in arrays:
                sample = array[row : row + 1] if rows > 1 else array
                self._hash.update(f"{sample.dtype.str}{sample.shape}".encode())
                self._hash.update(repr(sample.tolist()).encode() if sample.dtype.hasobject else sample.data)
        self.samples += rows

    @property
    def hexdigest(self) -> str:
        """The digest of all so far."""
        return self._hash.hexdigest()
