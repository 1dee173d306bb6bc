"""The float network behind a quantized file, and what a target fuses in it: where its pairs should stand.

Every pair is taken out, whatever its numbers are, and the target's own patterns are matched on what is left. So a
fault is found by the same declarations that place pairs, a user's own included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.editing import Rewriter
from quantonnx.inspecting import Pair, QuantizedConstant, find_pairs
from quantonnx.model import Model
from quantonnx.pattern import Edge, Pattern, Role
from quantonnx.plan import Step
from quantonnx.rewriting import transform
from quantonnx.target import Target


@dataclass(frozen=True, eq=False)
class Group:
    """Operators of the file that the target runs as one, and the match that shows it."""

    step: Step
    match: Pattern

    @cached_property
    def points(self) -> frozenset[str]:
        """The names of the activations on which the pattern declares a pair."""
        return frozenset(value.name for role in Role if role.on_activation for value in self.values(role))

    def values(self, role: Role) -> tuple[gs.Tensor, ...]:
        """Returns the values of one role."""
        points = (point for point in self.match.qdq_points if point.role is role)
        return tuple(value for point in points for value in self.match.values(point.declaration))

    def edges(self, role: Role) -> tuple[Edge, ...]:
        """Returns the inputs of operators at which values of one role enter."""
        points = (point for point in self.match.qdq_points if point.role is role)
        return tuple(edge for point in points for edge in self.match.edges(point.declaration))


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The fused float model; `groups` by the name of each operator; `names` of quantized tensors in it."""

    model: Model
    groups: Mapping[str, Group]
    names: Mapping[str, str]

    @property
    def every_group(self) -> Iterator[Group]:
        """Each group once."""
        return iter({id(group): group for group in self.groups.values()}.values())

    @cached_property
    def wanted_edges(self) -> frozenset[Edge]:
        """The inputs of operators at which the target wants quantized activations."""
        roles = (Role.INPUT, Role.RESIDUAL_INPUT)
        return frozenset(edge for group in self.every_group for role in roles for edge in group.edges(role))

    @cached_property
    def wanted_outputs(self) -> frozenset[str]:
        """The values that the target wants to be quantized as they leave an operator."""
        return frozenset(value.name for group in self.every_group for value in group.values(Role.OUTPUT))


def skeleton_of(model: Model, target: Target) -> Skeleton:
    """Returns the float network of a quantized model, fused for a target."""
    taken_out, names = _without_pairs(model)
    fused = transform(taken_out, target=target)
    groups = {}
    for step, match in fused.matches.resolve(fused.model):
        group = Group(step, match)
        groups.update(dict.fromkeys((*step.nodes, *(node.name for node in match.nodes)), group))
    return Skeleton(fused.model, groups, names)


def _without_pairs(source: Model) -> tuple[Model, dict[str, str]]:
    model = source.copy()
    editor = Rewriter(model)
    pairs = find_pairs(model)
    for constant in pairs.constants:
        _take_out_constant(editor, constant)
    names: dict[str, gs.Tensor] = {}
    for pair in pairs.activations:
        if pair.dequantize:
            names[pair.tensor] = pair.quantize.inputs[0]
            _take_out(editor, pair, names)
    model.sort()
    return model, {name: value.name for name, value in names.items()}


def _take_out_constant(editor: Rewriter, constant: QuantizedConstant) -> None:
    """Patterns ask for shapes, so that zeros stand for the values."""
    node, shape = constant.node, constant.stored.shape
    if editor.is_public(node.outputs[0]) or not node.inputs:
        return
    name = f"{node.outputs[0].name}_float"
    editor.bypass(node, editor.deferred(name, shape, TensorProto.FLOAT, lambda: np.zeros(shape, np.float32)))


def _take_out(editor: Rewriter, pair: Pair, names: dict[str, gs.Tensor]) -> None:
    value = pair.quantize.inputs[0]
    for node in pair.moving:
        for output in node.outputs:
            output.dtype = value.dtype
    if not editor.is_public(pair.quantize.outputs[0]):
        editor.bypass(pair.quantize, value)
    for node in pair.dequantize:
        if node.inputs:
            _bypass_end(editor, node, names)


def _bypass_end(editor: Rewriter, node: gs.Node, names: dict[str, gs.Tensor]) -> None:
    """Takes out a DequantizeLinear; where it gives a public value, its name goes to what stands before it."""
    value, result = node.inputs[0], node.outputs[0]
    if not editor.can_bypass(node, value):
        editor.drop_inputs(node, 1)
        node.op, node.domain = "Identity", None
        node.attrs.clear()
        return
    public = editor.is_public(result)
    editor.bypass(node, value)
    if public:
        names.update((name, result) for name, known in names.items() if known is value)
