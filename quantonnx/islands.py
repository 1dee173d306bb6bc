"""Islands: operators whose conversions cost more than integer arithmetic gains there stay in float.

Every match that could be an integer operator gains or loses time by it, and every value that passes between integers
and float costs a conversion. From all of them in integers, those are released, alone or a few neighbours at once, that
make the estimate shorter; then whole regions that do not pay. Linear in the graph but for a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from typing import TypeVar

import onnx_graphsurgeon as gs

from quantonnx.costs import Cost, CostModel
from quantonnx.model import Model
from quantonnx.pattern import Edge, Pattern, Role
from quantonnx.shapes import Shape, infer_shapes, multiply_accumulates
from quantonnx.sites import moves
from quantonnx.target import Target

SHORTEST_RUN = 50.0
"""Microseconds: in a model that runs shorter, operators do not decide its speed, and none is released."""

T = TypeVar("T")

_LARGEST_GROUP = 6
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass
class _Unit:
    """A match that may be an integer operator: what it gains in microseconds, and the values around it."""

    match: Pattern
    float_time: float
    gain: float
    closes: bool
    integer: bool = True
    values: list[_Value] = field(default_factory=list)


@dataclass
class _Value:
    """A value between operators: who gives it, who may read its codes, and whether anyone reads real numbers."""

    elements: int
    giver: _Unit | None = None
    readers: list[_Unit] = field(default_factory=list)
    read_in_float: bool = False


def slower_in_integers(model: Model, matches: Sequence[Pattern], target: Target) -> dict[int, str]:
    """Returns the positions in `matches` that stay in float because that is faster, with the reason.

    Nothing for a target without a cost model, and for matches whose shapes are unknown.
    """
    if target.costs is None or not matches:
        return {}
    islands = _Islands(model, matches, target, target.costs)
    if sum(unit.float_time for unit in islands.units) < SHORTEST_RUN:
        return {}
    return islands.released()


class _Islands:
    def __init__(self, model: Model, matches: Sequence[Pattern], target: Target, costs: CostModel) -> None:
        self.costs = costs
        self.shapes = infer_shapes(model)
        self.passing = target.same_scale | target.transparent
        self.units = [self._unit(match) for match in matches]
        self.values: dict[str, _Value] = {}
        self.public = {output.name for output in model.graph.outputs} | model.captured
        self._connect()

    def released(self) -> dict[int, str]:
        """Returns the units that are better off in float."""
        reasons: dict[int, str] = {}
        self._release_singly(reasons)
        self._release_groups(reasons)
        self._release_singly(reasons)
        self._release_regions(reasons)
        return {position: reasons[id(unit)] for position, unit in enumerate(self.units) if not unit.integer}

    # ------------------------------------------------------------------ the graph of units and values

    def _unit(self, match: Pattern) -> _Unit:
        claimed = {id(value) for point in match.qdq_points for value in match.values(point.declaration)}
        working = [node for node in match.nodes if _computes(node, claimed)]
        exact = sum(_time(self.costs.float_costs, node, self.shapes) for node in working)
        rough = sum(_time(self.costs.integer_costs, node, self.shapes) for node in working)
        known = working and exact < inf and rough < inf
        closes = any(point.role is Role.OUTPUT for point in match.qdq_points)
        return _Unit(match, exact if known else 0.0, exact - rough if known else inf, closes)

    def _connect(self) -> None:
        owners: dict[Edge, _Unit] = {}
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
            for unit in _distinct([*([value.giver] if value.giver else []), *value.readers]):
                unit.values.append(value)

    def _value(self, tensor: gs.Tensor, owners: Mapping[Edge, _Unit]) -> _Value:
        found = self.values.get(tensor.name)
        if found is None:
            found = self.values[tensor.name] = _Value(_elements(self.shapes.get(tensor.name)))
            for owner in self._readers(tensor, owners):
                if owner is None:
                    found.read_in_float = True
                else:
                    found.readers.append(owner)
        return found

    def _readers(self, tensor: gs.Tensor, owners: Mapping[Edge, _Unit]) -> Iterator[_Unit | None]:
        """Yields who reads a value, through operators that only move it; None for a reader of real numbers."""
        pending = [tensor]
        while pending:
            value = pending.pop()
            if value.name in self.public:
                yield None
            for node in {id(node): node for node in value.outputs}.values():
                for index, operand in enumerate(node.inputs):
                    if operand is not value:
                        continue
                    owner = owners.get(Edge(node.name, index))
                    if owner is None and index == 0 and moves(node, self.passing):
                        pending.append(node.outputs[0])
                    else:
                        yield owner

    def _origin(self, value: gs.Tensor) -> gs.Tensor:
        while value.inputs and moves(value.inputs[0], self.passing) and value.inputs[0].inputs:
            value = value.inputs[0].inputs[0]
        return value

    # ------------------------------------------------------------------ estimates

    def _conversions(self, value: _Value) -> float:
        """The microseconds that a value costs in conversions as things stand."""
        giver = value.giver if value.giver is not None and value.giver.integer else None
        has_codes = giver is not None and (giver.closes or self.costs.fuses_conversions)
        spent = 0.0
        if not has_codes and any(unit.integer for unit in value.readers):
            spent += self.costs.float_costs["QuantizeLinear"].time(0, 2 * value.elements)
        if giver is not None and giver.closes and not self.costs.fuses_conversions:
            if value.read_in_float or not all(unit.integer for unit in value.readers):
                spent += self.costs.float_costs["DequantizeLinear"].time(0, 2 * value.elements)
        return spent

    def _change(self, units: Sequence[_Unit]) -> float:
        """The microseconds that it adds to put integer units into float; negative when that is faster."""
        values = _distinct(value for unit in units for value in unit.values)
        before = sum(map(self._conversions, values))
        for unit in units:
            unit.integer = False
        after = sum(map(self._conversions, values))
        for unit in units:
            unit.integer = True
        return sum(unit.gain for unit in units) + after - before

    # ------------------------------------------------------------------ what is released

    def _release_singly(self, reasons: dict[int, str]) -> None:
        heap = [(self._change([unit]), order) for order, unit in enumerate(self.units) if unit.integer]
        orders = {id(unit): order for order, unit in enumerate(self.units)}
        heapq.heapify(heap)
        while heap:
            known, order = heapq.heappop(heap)
            unit = self.units[order]
            if known >= 0 or not unit.integer:
                continue
            change = self._change([unit])
            if change >= 0:
                continue
            if change > known + 1e-9:
                heapq.heappush(heap, (change, order))
                continue
            self._release([unit], change, reasons)
            for near in self._neighbours([unit]):
                heapq.heappush(heap, (self._change([near]), orders[id(near)]))

    def _release_groups(self, reasons: dict[int, str]) -> None:
        """Releases neighbours that only pay together, grown from units that gain less than their conversions."""
        for unit in self.units:
            if unit.integer and unit.gain < self._price(unit):
                group, change = self._grown(unit)
                if change < 0:
                    self._release(group, change, reasons)

    def _grown(self, unit: _Unit) -> tuple[list[_Unit], float]:
        group, change = [unit], self._change([unit])
        while change >= 0 and len(group) < _LARGEST_GROUP:
            near = [other for other in self._neighbours(group) if other.gain < inf]
            if not near:
                break
            tried = [(self._change([*group, other]), index) for index, other in enumerate(near)]
            change, index = min(tried)
            group.append(near[index])
        return group, change

    def _release_regions(self, reasons: dict[int, str]) -> None:
        seen: set[int] = set()
        for unit in self.units:
            if unit.integer and id(unit) not in seen:
                region = self._region(unit)
                seen.update(map(id, region))
                change = self._change(region)
                if change < 0:
                    self._release(region, change, reasons)

    def _region(self, unit: _Unit) -> list[_Unit]:
        region, seen = [unit], {id(unit)}
        for known in region:
            for other in self._neighbours([known]):
                if id(other) not in seen:
                    seen.add(id(other))
                    region.append(other)
        return region

    def _neighbours(self, units: Sequence[_Unit]) -> list[_Unit]:
        inside = {id(unit) for unit in units}
        around = (u for unit in units for value in unit.values for u in (value.giver, *value.readers) if u is not None)
        return [other for other in _distinct(around) if other.integer and id(other) not in inside]

    def _price(self, unit: _Unit) -> float:
        return sum(self.costs.float_costs["QuantizeLinear"].time(0, 2 * value.elements) for value in unit.values)

    def _release(self, units: Sequence[_Unit], change: float, reasons: dict[int, str]) -> None:
        gain = sum(unit.gain for unit in units)
        told = (
            f"integers would gain {gain:.1f} µs and cost {gain - change:.1f} µs of conversions"
            if gain > 0
            else f"integers would be {-gain:.1f} µs slower"
        )
        together = f" (with {len(units) - 1} neighbours)" if len(units) > 1 else ""
        for unit in units:
            unit.integer = False
            reasons[id(unit)] = f"float is faster here: {told}{together}, as estimated"


def _computes(node: gs.Node, claimed: set[int]) -> bool:
    """True for an operator of a match whose operands are all claimed, so that it would compute with integers."""
    operands = node.inputs[:2] if node.op in _WEIGHTED else node.inputs
    variables = [value for value in operands if value.name and not isinstance(value, gs.Constant)]
    return bool(variables) and all(id(value) in claimed for value in variables)


def _time(costs: Mapping[str, Cost], node: gs.Node, shapes: Mapping[str, Shape]) -> float:
    cost = costs.get(_kind(node))
    around = [value for value in (*node.inputs, *node.outputs[:1]) if value.name and not isinstance(value, gs.Constant)]
    sizes = [shapes.get(value.name) for value in around]
    if cost is None or any(size is None or None in size for size in sizes):
        return inf
    weights = sum(prod(value.shape) for value in node.inputs if isinstance(value, gs.Constant))
    return cost.time(multiply_accumulates(node, shapes), sum(map(_elements, sizes)), weights)


def _kind(node: gs.Node) -> str:
    if node.op == "Conv" and node.attrs.get("group", 1) > 1:
        return "depthwise" if node.inputs[1].shape[1] == 1 else "grouped"
    if node.op == "MatMul" and not any(isinstance(value, gs.Constant) for value in node.inputs):
        return "product"
    return "MatMul" if node.op == "Gemm" else str(node.op)


def _elements(shape: Shape | None) -> int:
    return prod(size or 1 for size in shape) if shape is not None else 0


def _distinct(found: Iterable[T]) -> list[T]:
    return list({id(item): item for item in found}.values())
