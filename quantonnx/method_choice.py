"""Which method finds the best ranges for a whole model, judged by what comes out of it.

Clipping and rounding errors of one tensor do not tell what they do to the outputs: a later ReLU6 saturates what was
clipped before it, a normalization divides it away, and of another network the same values decide the answer. So the
quantized model itself runs on a few calibration samples, once for each method, and the outputs nearest to those of the
float model decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.methods import RangeMethod, parse_method
from quantonnx.calibration.running import outputs_of
from quantonnx.model import Model

Array = NDArray[Any]
Feed = Mapping[str, Array]
Outputs = list[Array]

FALLBACK = parse_method("mse")
"""Never far from the best: what is taken where no samples can be run."""

CANDIDATES = (
    parse_method("percentile:99.999"),
    FALLBACK,
    parse_method("moving_average"),
)
"""Those that clip least first: they are safer on samples that calibration did not see."""

NO_DIFFERENCE = 0.5
"""dB: what a few samples tell of two methods is no more exact than that, and the first of them is taken."""

_LEAST_SHARE = 1e-12  # of an output's power: less is no difference


@dataclass(frozen=True)
class MethodChoice:
    """The best method, and by method the mean ratio of the outputs to their error in dB, the higher the better."""

    best: RangeMethod
    decibels: Mapping[str, float]
    samples: int

    def __str__(self) -> str:
        found = ", ".join(f"{name} {value:.1f} dB" for name, value in self.decibels.items())
        told = f"brings the outputs nearest to float, over {self.samples} samples"
        if self.decibels[str(self.best)] < max(self.decibels.values()):
            told = f"clips least of those within {NO_DIFFERENCE} dB of the best, over {self.samples} samples"
        return f"{self.best} {told}: {found}"


def choose_method(
    model: Model,
    quantized_by: Callable[[RangeMethod], Model],
    feeds: Sequence[Feed],
    *,
    candidates: Iterable[RangeMethod] = CANDIDATES,
    threads: int | None = None,
    memory_limit: int | None = None,
) -> MethodChoice:
    """Returns the candidate whose Q/DQ model, `quantized_by(candidate)`, errs least on `feeds`: the first of those that
    are within NO_DIFFERENCE of the best.

    The error of an output is taken in proportion to its power, and from three axes on for each index along axis 1 by
    itself: of a detector's boxes and scores, one part must not hide the other. Raises ModelError for a model that ONNX
    Runtime does not load.
    """
    run = partial(outputs_of, feeds=feeds, threads=threads, memory_limit=memory_limit)
    exact = list(run(model))
    found = {method: output_decibels(exact, run(quantized_by(method))) for method in candidates}
    best = next(method for method, value in found.items() if value >= max(found.values()) - NO_DIFFERENCE)
    return MethodChoice(best, {str(method): value for method, value in found.items()}, len(feeds))


def output_decibels(exact: Iterable[Outputs], rough: Iterable[Outputs]) -> float:
    """Returns the ratio of float outputs to their error in dB, over all samples, the mean over outputs.

    It is that of the mean over slices along axis 1 of noise to signal, none counted as more than 1. Outputs that are no
    tensors of floats do not count, nor do places where the exact value is not finite; one of another shape, such as
    other boxes that pass a threshold, is all noise. −inf where the rough one is not finite.
    """
    power: dict[tuple[int, int], Array | float] = defaultdict(float)
    noise: dict[tuple[int, int], Array | float] = defaultdict(float)
    for expected, found in zip(exact, rough, strict=True):
        for index, (x, y) in enumerate(zip(expected, found, strict=True)):
            if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating):
                key = (index, x.shape[1] if x.ndim > 2 else 1)
                known = np.isfinite(x)
                signal = np.where(known, x, 0).astype(np.float64)
                power[key] += _by_slice(signal**2)
                error = signal - np.where(known, y, 0) if x.shape == y.shape else signal
                noise[key] += _by_slice(error**2)
    ratios = [_decibels(power[key], noise[key]) for key in power]
    return float(np.mean(ratios)) if ratios else 0.0


def _by_slice(values: Array) -> Array:
    if values.ndim < 3:
        return np.asarray(values.sum())
    return np.asarray(values.sum(axis=(0, *range(2, values.ndim))))


def _decibels(power: Array | float, noise: Array | float) -> float:
    least = max(float(np.sum(power)) * _LEAST_SHARE, float(np.finfo(np.float64).tiny))
    ratio = (np.asarray(noise) + least) / (np.asarray(power) + least)
    return -10 * log10(float(np.minimum(ratio, 1).mean())) if np.isfinite(ratio).all() else -np.inf
