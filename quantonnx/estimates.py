"""How long the operators of a match would take in float and in integers, by the cost model of a target."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_graphsurgeon as gs

from quantonnx.costs import Cost, CostModel
from quantonnx.pattern import Pattern
from quantonnx.shapes import Shape, multiply_accumulates

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def estimated_times(match: Pattern, costs: CostModel, shapes: Mapping[str, Shape]) -> tuple[float, float] | None:
    """Returns the microseconds in float and in integers of those operators of a match that compute with claimed
    values; what is fused behind them costs the same either way. None where a shape or a cost is unknown."""
    claimed = {id(value) for point in match.qdq_points for value in match.values(point.declaration)}
    working = [node for node in match.nodes if _computes(node, claimed)]
    times = [(_time(costs.float_costs, node, shapes), _time(costs.integer_costs, node, shapes)) for node in working]
    known = [(exact, rough) for exact, rough in times if exact is not None and rough is not None]
    if not known or len(known) < len(times):
        return None
    return sum(exact for exact, _ in known), sum(rough for _, rough in known)


def elements(shape: Shape | None) -> int:
    """Returns how many numbers a shape holds; unknown dimensions count as 1, an unknown shape as 0."""
    return prod(size or 1 for size in shape) if shape is not None else 0


def _computes(node: gs.Node, claimed: set[int]) -> bool:
    """True for an operator of a match whose operands are all claimed, so that it would compute with integers."""
    operands = node.inputs[:2] if node.op in _WEIGHTED else node.inputs
    variables = [value for value in operands if value.name and not isinstance(value, gs.Constant)]
    return bool(variables) and all(id(value) in claimed for value in variables)


def _time(costs: Mapping[str, Cost], node: gs.Node, shapes: Mapping[str, Shape]) -> float | None:
    cost = costs.get(_kind(node))
    around = [value for value in (*node.inputs, *node.outputs[:1]) if value.name and not isinstance(value, gs.Constant)]
    sizes = [shapes.get(value.name) for value in around]
    if cost is None or any(size is None or None in size for size in sizes):
        return None
    weights = sum(prod(value.shape) for value in node.inputs if isinstance(value, gs.Constant))
    return cost.time(multiply_accumulates(node, shapes), sum(map(elements, sizes)), weights)


def _kind(node: gs.Node) -> str:
    if node.op == "Conv" and node.attrs.get("group", 1) > 1:
        return "depthwise" if node.inputs[1].shape[1] == 1 else "grouped"
    if node.op == "MatMul" and not any(isinstance(value, gs.Constant) for value in node.inputs):
        return "product"
    return "MatMul" if node.op == "Gemm" else str(node.op)
