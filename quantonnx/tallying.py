"""How near the outputs of one model are to those of another: sums over samples, and the figures that they give.

Everything is accumulated sample by sample, so that memory does not grow with the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.errors import DataError

Array = NDArray[Any]

SMALLEST_VOCABULARY = 256
"""From this size on, the last axis of an output with three or more axes is taken for the scores of tokens."""


@dataclass(frozen=True)
class OutputComparison:
    """How near one output is to the float model's.

    `sqnr_db` is 10·log10(Σx² / Σ(x−q)²) over all samples, infinite when they are equal; `cosine` is the mean over
    samples; `max_abs` the largest difference; `agreement` the share of equal top-1 classes, None where the output does
    not look like class scores. All are NaN where shapes differ.
    """

    sqnr_db: float
    cosine: float
    max_abs: float
    agreement: float | None = None


@dataclass(frozen=True)
class Comparison:
    """How near a model is to the float model: per output, and the accuracy of both where there were labels."""

    outputs: Mapping[str, OutputComparison]
    samples: int
    float_accuracy: float | None = None
    accuracy: float | None = None

    @property
    def sqnr_db(self) -> float:
        """The SQNR of the worst output, in dB."""
        return min((output.sqnr_db for output in self.outputs.values()), default=math.nan)

    @property
    def cosine(self) -> float:
        """The cosine of the worst output."""
        return min((output.cosine for output in self.outputs.values()), default=math.nan)

    @property
    def agreement(self) -> float | None:
        """The top-1 agreement of the first output that looks like class scores."""
        return next((output.agreement for output in self.outputs.values() if output.agreement is not None), None)


class Tally:
    """What is remembered of all samples: sums per output, and right answers."""

    def __init__(self, names: Sequence[str], labels: Array | None) -> None:
        self.outputs = {name: _OutputSums() for name in names}
        self.labels = None if labels is None else _checked_labels(labels)
        self.samples = 0
        self.right = [0, 0]
        self.judged = False

    def add(self, exact: Sequence[Any], rough: Sequence[Any], batch: int) -> None:
        """Adds the outputs of one feed of `batch` samples."""
        self.judged = False
        for sums, x, q in zip(self.outputs.values(), exact, rough, strict=True):
            if isinstance(x, np.ndarray) and isinstance(q, np.ndarray) and x.dtype.kind in "fiub":
                sums.add(x, q, batch)
                self._judge(x, q, batch)
        self.samples += batch

    def result(self) -> Comparison:
        """Returns the figures. Raises DataError when nothing was added."""
        if not self.samples:
            raise DataError("there is no sample to compare on", "check the data")
        outputs = {name: sums.result() for name, sums in self.outputs.items() if sums.rows}
        if self.labels is None:
            return Comparison(outputs, self.samples)
        if not any(sums.classified for sums in self.outputs.values()):
            raise DataError(
                "there are labels, but no output looks like class scores", "expected an output [N, classes]"
            )
        accuracies = [count / self.samples for count in self.right]
        return Comparison(outputs, self.samples, *accuracies)

    def _judge(self, exact: Array, rough: Array, batch: int) -> None:
        scores = class_scores(exact)
        if self.labels is None or self.judged or scores is None or len(scores) != batch or exact.shape != rough.shape:
            return
        self.judged = True
        labels = self.labels[self.samples : self.samples + batch]
        if len(labels) < batch:
            raise DataError(f"there are {len(self.labels)} labels for more samples", "expected one label a sample")
        for index, found in enumerate((scores, rough.reshape(scores.shape))):
            self.right[index] += _right(np.argmax(found, axis=-1), labels, scores.shape[-1])


def _checked_labels(labels: Array) -> Array:
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu" and labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.dtype.kind in "iu" and labels.ndim == 1:
        return labels
    if labels.dtype.kind == "b" and labels.ndim == 2:
        return labels
    raise DataError(
        f"labels are {labels.dtype}{list(labels.shape)}", "expected class numbers [N] or booleans [N, classes]"
    )


def _right(found: Array, labels: Array, classes: int) -> int:
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise DataError(f"labels have {labels.shape[1]} classes", f"the model gives {classes}")
        return int(labels[np.arange(len(found)), found].sum())
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"labels go from {labels.min()} to {labels.max()}", f"the model gives {classes} classes")
    return int((found == labels).sum())


def class_scores(values: Array) -> Array | None:
    """Returns an output as scores [N, classes], or [N, …, vocabulary] for tokens; None where it does not look so."""
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.dtype.kind != "f" or values.ndim < 2 or values.shape[-1] < 2 or not values.size:
        return None
    return values if values.ndim == 2 or values.shape[-1] >= SMALLEST_VOCABULARY else None


@dataclass
class _OutputSums:
    signal: float = 0.0
    noise: float = 0.0
    cosine: float = 0.0
    max_abs: float = 0.0
    rows: int = 0
    same: int = 0
    classified: int = 0
    shapes_differ: bool = field(default=False)

    def add(self, exact: Array, rough: Array, batch: int) -> None:
        if exact.shape != rough.shape:
            self.shapes_differ = True
            self.rows += batch
            return
        self._add_classes(exact, rough)
        rows = batch if exact.ndim and exact.shape[0] == batch else 1
        x, q = (values.reshape(rows, -1).astype(np.float64) for values in (exact, rough))
        self.signal += float(np.vdot(x, x))
        self.noise += float(np.sum(np.square(x - q)))
        self.max_abs = max(self.max_abs, float(np.max(np.abs(x - q), initial=0.0)))
        self.cosine += float(_cosines(x, q).sum())
        self.rows += rows

    def result(self) -> OutputComparison:
        if self.shapes_differ:
            return OutputComparison(math.nan, math.nan, math.nan)
        agreement = self.same / self.classified if self.classified else None
        return OutputComparison(_decibels(self.signal, self.noise), self.cosine / self.rows, self.max_abs, agreement)

    def _add_classes(self, exact: Array, rough: Array) -> None:
        scores, others = class_scores(exact), class_scores(rough)
        if scores is not None and others is not None:
            same = np.argmax(scores, axis=-1) == np.argmax(others, axis=-1)
            self.same += int(same.sum())
            self.classified += same.size


def _cosines(x: Array, q: Array) -> Array:
    norms = np.sqrt(np.sum(x * x, axis=1) * np.sum(q * q, axis=1))
    products = np.sum(x * q, axis=1)
    both_zero = ~x.any(axis=1) & ~q.any(axis=1)
    return np.asarray(np.where(both_zero, 1.0, products / np.where(norms > 0, norms, 1.0)))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
