"""A graph as a list of steps, each a call of torch; what is no longer needed is dropped after each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Any]
FindLayer = Callable[[str], nn.Module]


@dataclass(frozen=True)
class Step:
    """One call: of `function`, or of the layer at the path `layer`; an input or output named "" is absent.

    With `on_device` it gets the device as `device`, with `nested` also what finds layers as `find`. `parts` are the
    steps that it stands for, if several.
    """

    node: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None
    layer: str = ""
    on_device: bool = False
    nested: bool = False
    drops: tuple[str, ...] = ()
    parts: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Program:
    """The steps of one graph; `literals` are values that are Python numbers, by name.

    A value is called as in the ONNX file; what a pair makes of it has a name after it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    literals: Mapping[str, Any]

    def run(
        self, values: Values, find: FindLayer, device: torch.device | None, kept: Collection[str] = ()
    ) -> tuple[Any, ...]:
        """Returns the outputs; `values` has inputs and states, and in the end the values in `kept` too."""
        values[""] = None
        values.update(self.literals)
        for step in _apart(self.steps, kept) if kept else self.steps:
            found = _result(step, values, find, device)
            if len(step.outputs) == 1:
                values[step.outputs[0]] = found
            else:
                values.update((name, value) for name, value in zip(step.outputs, found, strict=False) if name)
            for name in step.drops:
                if name not in kept:
                    del values[name]
        return tuple(values[name] for name in self.outputs)


def _apart(steps: Sequence[Step], kept: Collection[str]) -> Iterator[Step]:
    """Yields the steps, those in parts that have a value to keep inside."""
    for step in steps:
        if any(name in kept for part in step.parts[:-1] for name in part.outputs):
            yield from step.parts[:-1]
            yield replace(step.parts[-1], drops=step.drops)
        else:
            yield step


def _result(step: Step, values: Values, find: FindLayer, device: torch.device | None) -> Any:
    arguments = [values[name] for name in step.inputs]
    settings = step.settings
    if step.on_device or step.nested:
        settings = {**settings, "device": device, **({"find": find} if step.nested else {})}
    called = find(step.layer) if step.function is None else step.function
    try:
        return called(*arguments, **settings)
    except Exception as error:
        error.add_note(f"in {step.op} {step.node!r}")
        raise


def as_tensor(value: Any, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Returns Python numbers as a tensor, on that device."""
    return torch.as_tensor(value, dtype=dtype, device=device)


def with_drops(steps: Sequence[Step], kept: Collection[str]) -> tuple[Step, ...]:
    """Returns the steps, each with the values that nothing reads after it; `kept` are never dropped."""
    seen = {"", *kept}
    found = []
    for step in reversed(steps):
        names = dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name not in seen)
        seen.update(names)
        found.append(replace(step, drops=tuple(names)))
    return tuple(reversed(found))
