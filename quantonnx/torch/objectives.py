"""How far a student is from its teacher: what is minimised, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from quantonnx.errors import ModelError
from quantonnx.tallying import class_scores

_SMALLEST = 1e-12


@dataclass(frozen=True)
class Fidelity:
    """How near a student is to its teacher on samples: the loss of its outputs, the SQNR of the worst of them in dB,
    and how often both have the same best class, None where no output looks like class scores."""

    loss: float
    sqnr_db: float
    agreement: float | None


def output_loss(found: Sequence[Tensor], wanted: Sequence[Tensor], temperature: float) -> Tensor:
    """Returns the distance of outputs: normalised squared error, and for class scores the divergence of Kullback and
    Leibler between both softmaxes at a temperature (Hinton et al., 2015) too. Raises ModelError where none is float."""
    terms = [
        _distance(student.float(), teacher.float(), temperature)
        for student, teacher in zip(found, wanted, strict=True)
        if teacher.is_floating_point()
    ]
    if not terms:
        raise ModelError(
            "no output is a floating-point one, so nothing can be learned from it", "cut the model before it"
        )
    return torch.stack(terms).mean()


def _distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    error = normalised_error(student, teacher)
    scores = scores_shape(teacher)
    if scores is None:
        return error
    found, wanted = (_logarithms(values.reshape(-1, scores[-1]), temperature) for values in (student, teacher))
    divergence = nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
    return error + divergence * temperature**2


def normalised_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the squared error as a part of the teacher's energy: 0.1 is an SQNR of 10 dB."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(_SMALLEST)


def blocks_loss(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """Returns the mean normalised error of values inside the network."""
    return torch.stack([normalised_error(found[name], value) for name, value in wanted.items()]).mean()


def scores_shape(values: Tensor) -> tuple[int, ...] | None:
    """Returns the shape of an output as scores [N, …, classes]; None where it does not look so."""
    if not values.is_floating_point():
        return None
    scores = class_scores(np.broadcast_to(np.float32(0), tuple(values.shape)))
    return None if scores is None else scores.shape


def _logarithms(scores: Tensor, temperature: float) -> Tensor:
    """The logarithms of a softmax at a temperature; what is a softmax already is known by its sums."""
    with torch.no_grad():
        is_softmax = bool((scores >= 0).all()) and bool(((scores.sum(-1) - 1).abs() < 1e-3).all())
    logs = scores.clamp_min(_SMALLEST).log() if is_softmax else scores
    return (logs / temperature).log_softmax(-1)


class FidelitySums:
    """What is remembered of all samples: sums for each output."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._loss, self._rows = 0.0, 0
        self._energy: dict[int, tuple[float, float]] = {}
        self._same: dict[int, tuple[int, int]] = {}

    def add(self, found: Sequence[Tensor], wanted: Sequence[Tensor], rows: int) -> None:
        """Adds the outputs for a batch of `rows` samples."""
        self._loss += rows * float(output_loss(found, wanted, self.temperature))
        self._rows += rows
        for index, (student, teacher) in enumerate(zip(found, wanted, strict=True)):
            if not teacher.is_floating_point():
                continue
            signal, noise = self._energy.get(index, (0.0, 0.0))
            error = (student.double() - teacher.double()).square().sum()
            self._energy[index] = signal + float(teacher.double().square().sum()), noise + float(error)
            shape = scores_shape(teacher)
            if shape is not None:
                best = student.reshape(shape).argmax(-1) == teacher.reshape(shape).argmax(-1)
                same, of = self._same.get(index, (0, 0))
                self._same[index] = same + int(best.sum()), of + best.numel()

    def result(self) -> Fidelity:
        """Returns the figures of all that was added."""
        agreement = next((same / of for same, of in self._same.values()), None)
        sqnr = min((_decibels(*sums) for sums in self._energy.values()), default=math.nan)
        return Fidelity(self._loss / max(self._rows, 1), sqnr, agreement)


def _decibels(signal: float, noise: float) -> float:
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(max(signal, _SMALLEST) / noise) if noise > 0 else math.inf
