"""Matches that may be integer operators, and the values that pass between them: what islands are cut out of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

import onnx_graphsurgeon as gs

from quantonnx.costs import CostModel
from quantonnx.estimates import elements, estimated_times
from quantonnx.model import Model
from quantonnx.pattern import Edge, Pattern, Role
from quantonnx.shapes import infer_shapes
from quantonnx.sites import moves
from quantonnx.target import Target

T = TypeVar("T")


@dataclass
class Unit:
    """A match that may be an integer operator: what it gains in microseconds, and the values around it."""

    match: Pattern
    float_time: float
    gain: float
    closes: bool
    has_weight: bool
    integer: bool = True
    values: list[Value] = field(default_factory=list)
    reads: list[Value] = field(default_factory=list)


@dataclass
class Value:
    """A value between operators: who gives it, who may read its codes, and whether anyone reads real numbers."""

    elements: int
    giver: Unit | None = None
    readers: list[Unit] = field(default_factory=list)
    integer_readers: int = 0
    read_in_float: bool = False


class UnitGraph:
    """The units of a model on a target, in the order of its matches, connected by values."""

    def __init__(self, model: Model, matches: Sequence[Pattern], target: Target, costs: CostModel) -> None:
        self.costs = costs
        self.shapes = infer_shapes(model)
        self.passing = target.same_scale | target.transparent
        self.units = [self._unit(match) for match in matches]
        self.values: dict[str, Value] = {}
        self.public = {output.name for output in model.graph.outputs} | model.captured
        self.read_by: dict[int, list[tuple[gs.Node, int]]] = {}
        for node in model.graph.nodes:
            for index, value in enumerate(node.inputs):
                self.read_by.setdefault(id(value), []).append((node, index))
        points = ((unit.match, point) for unit in self.units for point in unit.match.qdq_points)
        self.claimed = {value.name for match, point in points for value in match.values(point.declaration)}
        self.results = {unit.match.result.name for unit in self.units}
        self.origins: dict[str, gs.Tensor] = {}
        self._connect()

    def _unit(self, match: Pattern) -> Unit:
        roles = {point.role for point in match.qdq_points}
        times = estimated_times(match, self.costs, self.shapes)
        exact, gain = (times[0], times[0] - times[1]) if times else (0.0, inf)
        return Unit(match, exact, gain, closes=Role.OUTPUT in roles, has_weight=Role.WEIGHT in roles)

    def _connect(self) -> None:
        owners: dict[Edge, Unit] = {}
        for unit in self.units:
            for point in unit.match.qdq_points:
                if point.role.on_activation and point.role is not Role.OUTPUT:
                    owners.update((edge, unit) for edge in unit.match.edges(point.declaration))
        for unit in self.units:
            self._value(unit.match.result, owners).giver = unit
            for point in unit.match.qdq_points:
                if point.role.on_activation and point.role is not Role.OUTPUT:
                    for value in unit.match.values(point.declaration):
                        self._value(self._origin(value), owners)
        for value in self.values.values():
            value.integer_readers = len(value.readers)
            for unit in value.readers:
                unit.reads.append(value)
            for unit in around(value):
                unit.values.append(value)

    def _value(self, tensor: gs.Tensor, owners: Mapping[Edge, Unit]) -> Value:
        found = self.values.get(tensor.name)
        if found is None:
            found = self.values[tensor.name] = Value(elements(self.shapes.get(tensor.name)))
            for owner in self._readers(tensor, owners):
                if owner is None:
                    found.read_in_float = True
                else:
                    found.readers.append(owner)
        return found

    def _readers(self, tensor: gs.Tensor, owners: Mapping[Edge, Unit]) -> Iterator[Unit | None]:
        """Yields who reads a value, through operators that only move it; None for a reader of real numbers."""
        pending = [tensor]
        while pending:
            value = pending.pop()
            if value.name in self.public:
                yield None
            for node, index in self.read_by.get(id(value), ()):
                owner = owners.get(Edge(node.name, index))
                if owner is None and index == 0 and moves(node, self.passing):
                    pending += node.outputs
                else:
                    yield owner if self._origin(value) is tensor else None

    def _origin(self, value: gs.Tensor) -> gs.Tensor:
        """The value whose codes come here through operators that only move them: the farthest claimed one, or what
        a match gives to this reader alone."""
        known = self.origins.get(value.name)
        if known is None:
            known, alone, walked = value, True, value
            while walked.inputs and moves(walked.inputs[0], self.passing) and walked.inputs[0].inputs:
                alone = alone and len(self.read_by.get(id(walked), ())) == 1
                walked = walked.inputs[0].inputs[0]
                if walked.name in self.claimed or (alone and walked.name in self.results):
                    known = walked
            self.origins[value.name] = known
        return known


def around(value: Value) -> list[Unit]:
    """Returns the units that give or read a value."""
    return distinct([*([value.giver] if value.giver else []), *value.readers])


def distinct(found: Iterable[T]) -> list[T]:
    """Returns each thing once, in the order in which it came."""
    return list({id(item): item for item in found}.values())
