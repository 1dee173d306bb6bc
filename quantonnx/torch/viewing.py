"""What modules make of samples: outputs and values inside; those of a teacher are remembered where they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantonnx.errors import ConfigError
from quantonnx.preparation import steps_of
from quantonnx.torch.batches import Batch, Kept, Streamed, Unit, on_device, rows_in
from quantonnx.torch.module import from_onnx
from quantonnx.torch.objectives import normalised_error

LARGEST_REMEMBERED = 1 << 30
"""Bytes of a teacher's values that are remembered."""

_FEWEST_ADDITIONS = 2
_MOST_BLOCKS = 16
_LARGEST_DIFFERENCE = 1e-3
"""Of values that are the same in both networks, as a part of their energy."""


@dataclass(frozen=True)
class View:
    """The outputs of a module, and values inside it by name."""

    outputs: tuple[Tensor, ...]
    inside: Mapping[str, Tensor]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (*self.outputs, *self.inside.values())


def view(module: nn.Module, batch: Batch, names: Sequence[str]) -> View:
    """Returns what a module makes of a batch."""
    arguments, named = ((), batch) if isinstance(batch, dict) else (batch, {})
    if names:
        outputs, inside = module.collect(names, *arguments, **named)  # type: ignore[operator]
    else:
        outputs, inside = module(*arguments, **named), {}
    return View(tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,), inside)


class Teacher:
    """A module that is asked without gradients. Where all that it says of samples which stay the same takes at most
    LARGEST_REMEMBERED, it is asked once about each, alone, so that answers never hang on the other samples."""

    def __init__(self, module: nn.Module, names: Sequence[str], device: torch.device) -> None:
        self.module, self.names, self.device = module, tuple(names), device
        self._remembered: dict[int, View] | None = None

    def remember(self, source: Kept | Streamed, *, changes: bool) -> None:
        """Decides whether answers are remembered; `changes` where samples do at random."""
        if changes or not isinstance(source, Kept):
            return
        first = self.ask(source.units[0].batch)
        rows = rows_in(source.units[0].batch)
        by_row = all(value.ndim and len(value) == rows for value in first.tensors)
        size = sum(value.nbytes for value in first.tensors) * len(source.units)
        if size <= LARGEST_REMEMBERED and (by_row or not source.joined):
            self._remembered = {}

    def ask(self, batch: Batch) -> View:
        """Returns what the teacher makes of a batch."""
        with torch.no_grad():
            return view(self.module, on_device(batch, self.device), self.names)

    def about(self, units: Sequence[Unit], batch: Batch) -> View:
        """Returns what the teacher makes of units, of which `batch` is made."""
        if self._remembered is None:
            return self.ask(batch)
        for unit in units:
            if unit.number not in self._remembered:
                self._remembered[unit.number] = self.ask(unit.batch)
        return _joined([self._remembered[unit.number] for unit in units])


def _joined(views: Sequence[View]) -> View:
    if len(views) == 1:
        return views[0]
    outputs = tuple(torch.cat(values) for values in zip(*(each.outputs for each in views), strict=True))
    return View(outputs, {name: torch.cat([each.inside[name] for each in views]) for name in views[0].inside})


def block_names(student: nn.Module, teacher: nn.Module, asked: Any) -> tuple[str, ...]:
    """Returns the values inside that are compared: those asked for; with "auto" the sums of residual branches, or
    where there are hardly any, values evenly along the network that operators with weights give."""
    if not asked:
        return ()
    if asked != "auto":
        return (asked,) if isinstance(asked, str) else tuple(asked)
    found = _blocks_of(student)
    if len(found) > _MOST_BLOCKS:
        found = [found[(place + 1) * len(found) // _MOST_BLOCKS - 1] for place in range(_MOST_BLOCKS)]
    known = _values_of(teacher)
    return tuple(name for name in found if name in known)


def _blocks_of(module: nn.Module) -> list[str]:
    graph = _graph_of(module)
    if graph is None:
        return []
    public = {value.name for value in graph.outputs}
    nodes = [node for node in graph.nodes if node.outputs and node.outputs[0].name not in public]
    adds = [
        n.outputs[0].name for n in nodes if n.op == "Add" and all(v.inputs for v in n.inputs) and len(n.inputs) == 2
    ]
    if len(adds) >= _FEWEST_ADDITIONS:
        return adds
    return [n.outputs[0].name for n in nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]


def _values_of(module: nn.Module) -> set[str]:
    graph = _graph_of(module)
    return set() if graph is None else {value.name for node in graph.nodes for value in node.outputs}


def _graph_of(module: nn.Module) -> Any:
    origin = getattr(module, "origin", None)
    return None if origin is None else origin.model.graph


def comparable(names: Sequence[str], student: nn.Module, teacher: Teacher, batch: Batch) -> tuple[str, ...]:
    """Returns the values that have the same meaning in both modules: a recipe may have rescaled others."""
    origin = getattr(student, "origin", None)
    quantized = getattr(origin, "quantized", None)
    if not names or quantized is None or not steps_of(quantized.config, quantized.matches.target):
        return tuple(names)
    prepared = from_onnx(quantized.reference or quantized.model).to(teacher.device)
    with torch.no_grad():
        found = view(prepared, on_device(batch, teacher.device), names)
    wanted = teacher.ask(batch)
    return tuple(name for name in names if _alike(found.inside[name], wanted.inside[name]))


def _alike(found: Tensor, wanted: Tensor) -> bool:
    return _same_sort(found, wanted) and float(normalised_error(found, wanted)) <= _LARGEST_DIFFERENCE


def _same_sort(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and wanted.is_floating_point()


def check_blocks(student: View, teacher: View) -> None:
    """Raises ConfigError where a value inside is not the same sort of thing in both modules."""
    for name, value in teacher.inside.items():
        found = student.inside[name]
        if not _same_sort(found, value):
            raise ConfigError(
                f"the value {name!r} is {found.dtype}{list(found.shape)} in the student and "
                f"{value.dtype}{list(value.shape)} in the teacher, expected the same floating-point shape",
                "name other blocks, or none",
            )
