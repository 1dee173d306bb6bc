"""The groups whose errors are measured: matches of patterns, and single operators that read pairs beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from quantonnx.estimates import estimated_times
from quantonnx.evidence.grafting import Grafter
from quantonnx.evidence.pairs import Row
from quantonnx.inspecting import MOVING
from quantonnx.model import Model
from quantonnx.ordering import has_body
from quantonnx.pattern import Pattern
from quantonnx.plan import Step
from quantonnx.shapes import Shape, infer_shapes, multiply_accumulates
from quantonnx.sites import Site
from quantonnx.target import Target


@dataclass(frozen=True)
class Group:
    """Operators that the target runs as one kernel: `nodes` of the float model, and the value `tensor` that they give.

    With `closed`, a pair stands on that value for all who read it.
    """

    tensor: str
    pattern: str
    nodes: tuple[str, ...]
    closed: bool = False
    macs: int = 0
    times: tuple[float, float] | None = None


def matched_groups(
    model: Model, found: Iterable[tuple[Step, Pattern]], sites: Iterable[Site], target: Target
) -> list[Group]:
    """Returns a group for each match in the fused float model."""
    shapes = infer_shapes(model)
    whole = {site.tensor for site in sites if site.whole and not site.ranging.dynamic}
    return [
        Group(
            tensor=str(match.result.name),
            pattern=step.pattern,
            nodes=tuple(node.name for node in match.nodes),
            closed=match.result.name in whole,
            macs=sum(multiply_accumulates(node, shapes) for node in match.nodes),
            times=None if target.costs is None else estimated_times(match, target.costs, shapes),
        )
        for step, match in found
    ]


def further_groups(grafter: Grafter, known: Iterable[Group]) -> Iterator[Group]:
    """Yields a group for each operator that reads what quantization brought and that no known group holds."""
    taken = {name for group in known for name in group.nodes}
    shapes: dict[str, Shape] | None = None
    for node in grafter.quantized.graph.nodes:
        twin = grafter.original(node)
        if twin is None or node.name in taken or node.op in MOVING or has_body(node) or not twin.outputs[0].name:
            continue
        if any(value.inputs and grafter.original(value.inputs[0]) is None for value in node.inputs):
            shapes = dict(infer_shapes(grafter.base)) if shapes is None else shapes
            yield Group(twin.outputs[0].name, node.op, (node.name,), macs=multiply_accumulates(twin, shapes))


def seen_value(grafter: Grafter, rows: Iterable[Row], group: Group) -> gs.Tensor | None:
    """Returns the value of the quantized model that readers of a group see; None where it has none of that name."""
    value = grafter.quantized_tensors.get(group.tensor)
    if value is None or not group.closed:
        return value
    return next((row.result for row in rows if row.quantize.inputs[0] is value), value)
