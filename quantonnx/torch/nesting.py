"""From If, Loop and Scan to steps: each body becomes a program of its own, whose states stand in the one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.torch.control import Inside, Walk, run_if, run_loop, run_scan
from quantonnx.torch.node import Kind, Node, Unsupported
from quantonnx.torch.program import Program, Step

if TYPE_CHECKING:
    from quantonnx.torch.converting import Converter

_NUMBER, _TRUTH = Kind(np.dtype(np.int64), 0), Kind(np.dtype(bool), 0)


def add_if(converter: Converter, node: gs.Node, names: Sequence[str], seen: Node) -> None:
    """Adds the step of an If; an output that is a row of numbers in both bodies is one behind it too."""
    bodies = [converter.inner(node, attribute) for attribute in ("then_branch", "else_branch")]
    kinds = [_shared(*pair) for pair in zip(*(body.output_kinds() for body in bodies), strict=True)]
    programs = [body.finish([kind is not None for kind in kinds]) for body in bodies]
    for output, kind in zip(node.outputs, kinds, strict=True):
        if kind is not None:
            converter.numbers[output.name] = kind
    _add(converter, node, (converter.scalar(names[0]),), programs, run_if)


def add_loop(converter: Converter, node: gs.Node, names: Sequence[str], seen: Node) -> None:
    """Adds the step of a Loop: the count of turns and the condition are Python values in the body."""
    body = converter.inner(node, "body", (_NUMBER, _TRUTH))
    program = body.finish([body.output_kinds()[0] is not None])
    limits = [converter.scalar(name) for name in [*names, "", ""][:2]]
    _add(converter, node, (*limits, *map(converter.tensor, names[2:])), [program], run_loop)


def add_scan(converter: Converter, node: gs.Node, names: Sequence[str], seen: Node) -> None:
    """Adds the step of a Scan."""
    program = converter.inner(node, "body").finish()
    scanned = int(seen.get("num_scan_inputs"))
    given = len(node.outputs) - (len(names) - scanned)
    reading = _walks(scanned, seen.get("scan_input_axes"), seen.get("scan_input_directions"))
    giving = _walks(given, seen.get("scan_output_axes"), seen.get("scan_output_directions"))
    _add(converter, node, tuple(map(converter.tensor, names)), [program], run_scan, reading=reading, giving=giving)


ADDERS: dict[str, Callable[[Converter, gs.Node, Sequence[str], Node], None]] = {
    "If": add_if,
    "Loop": add_loop,
    "Scan": add_scan,
}
"""By operator: what adds its step to a converter."""


def _add(
    converter: Converter,
    node: gs.Node,
    inputs: tuple[str, ...],
    programs: Sequence[Program],
    function: Callable[..., Any],
    **settings: Any,
) -> None:
    outer = tuple(dict.fromkeys(name for program in programs for name in _read(converter, program)))
    outputs = tuple(output.name for output in node.outputs)
    settings = {"inside": Inside(tuple(programs), outer), **settings}
    converter.steps.append(Step(node.name, node.op, (*inputs, *outer), outputs, settings, function, nested=True))


def _read(converter: Converter, program: Program) -> list[str]:
    """Returns what a program needs besides its own inputs: values around it, and states."""
    made = {name for step in program.steps for name in step.outputs} | program.literals.keys()
    used = [name for step in program.steps for name in step.inputs]
    return [name for name in (*used, *program.outputs) if name and name not in made and name not in program.inputs]


def _shared(first: Kind | None, second: Kind | None) -> Kind | None:
    same = first is not None and second is not None and first[:2] == second[:2]
    return first._replace(literal=None) if first is not None and same else None


def _walks(count: int, axes: Sequence[int] | None, directions: Sequence[int] | None) -> tuple[Walk, ...]:
    if count < 0:
        raise Unsupported("more states than outputs")
    pairs = zip(axes or [0] * count, directions or [0] * count, strict=True)
    return tuple(Walk(axis, bool(backwards)) for axis, backwards in pairs)
