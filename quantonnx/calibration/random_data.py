"""Random samples, to try what a model and its target make of each other before there is any data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.feeds import InputSpec
from quantonnx.calibration.sources import Part
from quantonnx.errors import DataError

Array = NDArray[Any]

RANDOM_LENGTH = 16
"""What a dynamic dimension beyond the first becomes in random data."""

LARGEST_RANDOM = 1 << 28
"""Numbers in one input beyond which no random data is made."""


def random_parts(count: int, inputs: Sequence[InputSpec], seed: int) -> tuple[Callable[[], Iterator[Part]], int]:
    """Returns what makes the samples, and their number: whole fixed batches.

    Normal numbers for float inputs, 0 and 1 for the others: any embedding has these rows. Raises DataError for an
    input that is too large, or has no shape.
    """
    if count < 1:
        raise DataError(f"the number of random samples is {count}, expected at least 1")
    first = {spec.batch or 1 for spec in inputs}
    rows = first.pop() if len(first) == 1 else 1  # first axes that differ are no batch
    feeds = -(-count // rows)

    def parts() -> Iterator[Part]:
        generator = np.random.default_rng(seed)
        for index in range(feeds):
            feed = {spec.name: _random_array(spec, generator) for spec in inputs}
            yield Part(feed, f"random sample {index}")

    return parts, feeds * rows


def _random_array(spec: InputSpec, generator: np.random.Generator) -> Array:
    if spec.shape is None:
        raise DataError(f"input {spec.name!r} has no shape, so random data cannot be made", "give data")
    fixed = [d if isinstance(d, int) and d > 0 else RANDOM_LENGTH for d in spec.shape]
    shape = [spec.batch or 1, *fixed[1:]] if fixed else []
    if prod(shape) > LARGEST_RANDOM:
        raise DataError(f"input {spec.name!r} is {spec.text}, too large for random data", "give data")
    if spec.dtype.kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)
