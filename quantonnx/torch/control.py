"""What If, Loop and Scan do when they run: their bodies are programs, with what they read from the graph around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import integers
from quantonnx.torch.program import FindLayer, Program


@dataclass(frozen=True)
class Inside:
    """Bodies of one operator: their programs, and the names of what they read from outside, states included."""

    programs: tuple[Program, ...]
    outer: tuple[str, ...]

    def around(self, values: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Splits what the operator gets into its own operands and the values around it, by name."""
        own = len(values) - len(self.outer)
        return values[:own], dict(zip(self.outer, values[own:], strict=True))


@dataclass(frozen=True)
class Runner:
    """Runs one body, again and again."""

    program: Program
    around: Mapping[str, Any]
    find: FindLayer
    device: torch.device | None

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Returns the outputs of the body for its own inputs."""
        own = dict(zip(self.program.inputs, inputs, strict=False))
        return self.program.run({**self.around, **own}, self.find, self.device)


def run_if(*values: Any, inside: Inside, find: FindLayer, device: torch.device | None) -> Any:
    """Returns the outputs of the first body where the condition holds, else those of the second."""
    (condition,), around = inside.around(values)
    return _one_or_all(Runner(inside.programs[0 if bool(condition) else 1], around, find, device)())


def run_loop(*values: Any, inside: Inside, find: FindLayer, device: torch.device | None) -> Any:
    """Returns the carried values after the last turn, then what each turn gave, stacked."""
    (limit, condition, *carried), around = inside.around(values)
    body = Runner(inside.programs[0], around, find, device)
    count = None if limit is None else integers(limit)[0]
    going = condition is None or bool(condition)
    given: list[tuple[Any, ...]] = []
    while going and (count is None or len(given) < count):
        going, *found = body(len(given), going, *carried)
        carried, going = found[: len(carried)], bool(going)
        given.append(tuple(found[len(carried) :]))
    stacks = len(inside.programs[0].outputs) - 1 - len(carried)
    return _one_or_all((*carried, *_stacked(given, stacks)))


def run_scan(
    *values: Any, inside: Inside, reading: Sequence[Walk], giving: Sequence[Walk], find: FindLayer, device: Any
) -> Any:
    """Returns the carried values after the last slices of the scanned inputs, then what each turn gave, stacked."""
    operands, around = inside.around(values)
    body = Runner(inside.programs[0], around, find, device)
    carried = list(operands[: len(operands) - len(reading)])
    scanned = [walk.slices(x) for walk, x in zip(reading, operands[len(carried) :], strict=True)]
    given = []
    for slices in zip(*scanned, strict=True):
        found = body(*carried, *slices)
        carried = list(found[: len(carried)])
        given.append(found[len(carried) :])
    stacked = _stacked(given, len(giving))
    results = (walk.placed(stack) for walk, stack in zip(giving, stacked, strict=True))
    return _one_or_all((*carried, *results))


@dataclass(frozen=True)
class Walk:
    """Along which axis Scan goes, and whether from the end."""

    axis: int
    backwards: bool

    def slices(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the slices of a scanned input in the order of the turns."""
        pieces = x.unbind(self.axis)
        return iter(pieces[::-1] if self.backwards else pieces)

    def placed(self, stack: Tensor) -> Tensor:
        """Returns what the turns gave, turn by turn along axis 0, as the output has it."""
        stack = stack.flip(0) if self.backwards else stack
        return stack.movedim(0, self.axis)


def _stacked(given: Sequence[tuple[Any, ...]], count: int) -> list[Tensor]:
    if not given:
        return [torch.empty(0) for _ in range(count)]
    return [torch.stack([turn[place] for turn in given]) for place in range(count)]


def _one_or_all(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
