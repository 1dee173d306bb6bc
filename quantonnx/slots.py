"""The tensors at the boundary of a match, each at its operator, with the names that rules can call it by."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from quantonnx.config import NameRules
from quantonnx.config.rules import Names
from quantonnx.errors import PatternError
from quantonnx.pattern import Pattern, Point, Role
from quantonnx.plan import Step
from quantonnx.resolution import Side, Slot


def slots_of(match: Pattern, step: Step) -> list[tuple[Slot, Point]]:
    """Returns each tensor at a declared point, biases aside: one slot for each operator input that reads it."""
    found: list[tuple[Slot, Point]] = []
    for point in match.qdq_points:
        if point.role is not Role.BIAS:
            found += [(slot, point) for slot in _slots_at(point, match, step)]
    return found


def _slots_at(point: Point, match: Pattern, step: Step) -> Iterator[Slot]:
    values = list({id(value): value for value in match.values(point.declaration)}.values())
    if point.role is Role.OUTPUT:
        yield from (slot_at(value, point, match, step) for value in values)
        return
    nodes = {node.name: node for node in match.nodes}
    for edge in match.edges(point.declaration) if values else ():
        node = nodes[edge.node]
        yield _slot(node, edge.index, node.inputs[edge.index], point, match, step)


def slot_at(value: gs.Tensor, point: Point, match: Pattern, step: Step) -> Slot:
    """Returns the slot of a value that a match gives, or that one of its operators holds."""
    if point.role is Role.OUTPUT:
        node = value.inputs[0]
        index = next(i for i, output in enumerate(node.outputs) if output is value)
        return _slot(node, index, value, point, match, step)
    places = ((node, index) for node in match.nodes for index, read in enumerate(node.inputs) if read is value)
    node, index = next(places)
    return _slot(node, index, value, point, match, step)


def _slot(node: gs.Node, index: int, value: gs.Tensor, point: Point, match: Pattern, step: Step) -> Slot:
    side = {Role.OUTPUT: Side.OUTPUTS, Role.WEIGHT: Side.STATES, Role.BIAS: Side.STATES}.get(point.role, Side.INPUTS)
    kind = "activation" if point.role.on_activation else point.role.value
    return Slot(
        side=side,
        kind=kind,
        node=node,
        index=index,
        tensor=value,
        match=match,
        point=point,
        folded=step.nodes,
    )


def axis_of(point: Point, match: Pattern) -> int | None:
    """Returns the axis of the output channels of a weight; PatternError where it has no such axis."""
    weight = next(iter(match.values(point.declaration)), None)
    if point.axis is None or weight is None:
        return None
    axis, rank = point.axis(match) if callable(point.axis) else point.axis, len(weight.shape)
    if axis is not None and not -rank <= axis < rank:
        raise PatternError(
            f"pattern {type(match).__name__} puts its WEIGHT on axis {axis}, but {weight.name!r} has {rank} axes",
            "give the axis of the output channels: 0 for Conv, 1 for MatMul",
        )
    return axis


def one_for_each_channel(bias: gs.Tensor, match: Pattern) -> bool:
    """True where a bias has one number for each output channel of the match's weight."""
    point, weight = only(Role.WEIGHT, match)
    axis = axis_of(point, match)
    return axis is not None and tuple(bias.shape) == (weight.shape[axis],)


def only(role: Role, match: Pattern) -> tuple[Point, gs.Tensor]:
    """Returns the only point of a role and its value; PatternError where an operator with a bias has several."""
    found = [(p, value) for p in match.qdq_points if p.role is role for value in match.values(p.declaration)]
    if len(found) != 1:
        raise PatternError(
            f"pattern {type(match).__name__} declares a BIAS with {len(found)} values as {role.name}",
            "its scale needs exactly one INPUT and one WEIGHT: correct or drop the BIAS",
        )
    return found[0]


def names_of(node: gs.Node) -> list[str]:
    """Returns the names by which a user can call a node."""
    return [node.name, node.op, *(output.name for output in node.outputs)]


def names_in(match: Pattern) -> list[str]:
    """Returns the names by which a user can call a match."""
    return [name for node in match.nodes for name in names_of(node)]


def rules_of(names: Names, where: str) -> NameRules:
    """Returns the rules of a list of names."""
    return NameRules([entry.name for entry in names], where, [entry.name for entry in names if entry.optional])
