"""What is kept apart from training to measure on: how near a student has come to its teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantonnx.torch.batches import Batch, Kept, Streamed, Unit, joined, on_device, open_batches, rows_in
from quantonnx.torch.modules import evaluating
from quantonnx.torch.objectives import Fidelity, FidelitySums
from quantonnx.torch.viewing import Teacher, view

MOST_HELD_OUT = 64
"""Samples that are taken from those to train on."""

_PART = 8
_MOST_FROM_A_LOADER = 64


class HeldOut:
    """Samples with the teacher's outputs; `trained_on` where they are trained on too, as there are no others."""

    def __init__(self, batches: Sequence[Batch], teacher: Teacher, *, trained_on: bool) -> None:
        self.trained_on = trained_on
        self._device = teacher.device
        self._wanted = [(batch, teacher.ask(batch).outputs) for batch in batches]

    def __len__(self) -> int:
        return sum(rows_in(batch) for batch, _ in self._wanted)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the teacher's outputs, named by their place."""
        for place, (_, outputs) in enumerate(self._wanted):
            yield from ((f"{place}.{index}", value) for index, value in enumerate(outputs))

    def measure(self, student: nn.Module, temperature: float) -> Fidelity:
        """Returns how near the student is to its teacher, in evaluation mode."""
        sums = FidelitySums(temperature)
        with torch.no_grad(), evaluating(student):
            for batch, wanted in self._wanted:
                sums.add(view(student, on_device(batch, self._device), ()).outputs, wanted, rows_in(batch))
        return sums.result()


def hold_out(
    source: Kept | Streamed, evaluation: Any, student: nn.Module, teacher: Teacher, size: int
) -> tuple[Kept | Streamed, HeldOut]:
    """Returns what is left to train on, and what is measured on: `evaluation`, or every eighth unit of what is kept, or
    what a loader gives first."""
    teacher = Teacher(teacher.module, (), teacher.device)
    if evaluation is not None:
        other = open_batches(evaluation, student, size)
        units = other.units if isinstance(other, Kept) else _all(other)
        return source, HeldOut(_batches(units, size, together=other.joined), teacher, trained_on=False)
    if isinstance(source, Streamed) or len(source.units) < 2:
        units = _first(source, _MOST_FROM_A_LOADER) if isinstance(source, Streamed) else source.units
        return source, HeldOut(_batches(units, size, together=False), teacher, trained_on=True)
    every = max(_PART, -(-len(source.units) // MOST_HELD_OUT))
    held = source.units[every - 1 :: every] or source.units[-1:]
    return source.without(held), HeldOut(_batches(held, size, together=source.joined), teacher, trained_on=False)


def _batches(units: Sequence[Unit], size: int, *, together: bool) -> list[Batch]:
    at_once = size if together else 1
    groups = [units[start : start + at_once] for start in range(0, len(units), at_once)]
    return [joined([unit.batch for unit in group]) for group in groups]


def _all(source: Streamed) -> list[Unit]:
    with torch.random.fork_rng():
        return [unit for units in source.epoch(torch.Generator().manual_seed(0)) for unit in units]


def _first(source: Streamed, count: int) -> list[Unit]:
    found: list[Unit] = []
    with torch.random.fork_rng():
        for units in source.epoch(torch.Generator().manual_seed(0)):
            found += units
            if sum(rows_in(unit.batch) for unit in found) >= count:
                break
    return found
