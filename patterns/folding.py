"""Shape arithmetic and re-arranged weights that depend on nothing but constants become constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from quantonnx.declarations import Operator
from quantonnx.editing import Rewriter
from quantonnx.pattern import Conversion, Mismatch, tensors

from .public import refuse_public

FOLDABLE = Operator(
    (
        *("Shape", "Gather", "Concat", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Range"),
        *("ConstantOfShape", "Expand", "Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Pow", "Equal", "Where", "Tile"),
        *("And", "GatherElements", "Greater", "Less", "Max", "Min", "Mod", "Not", "Or", "Pad", "ScatterND"),
    )
)
BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Equal", "Where", "And", "Greater", "Less", "Max", "Min", "Mod", "Or"}
)
LARGEST_NEW_CONSTANT = 1 << 20
LARGEST_OF_BORROWED = 1 << 12
"""Elements of a result that each body of control flow would hold for itself, made of a weight that they share."""


class FoldConstants(Conversion):
    """An operator whose inputs are all constants is computed once, unless the result would bloat the file."""

    operands = tensors(constant=True)
    output = FOLDABLE(operands)

    def check(self) -> None:
        """Refuses public results, large new constants, and what cannot be computed."""
        refuse_public(self)
        try:
            self.value = self._computed()
        except Mismatch:
            raise
        except Exception as error:  # whatever the reference implementation or numpy makes of operands that do not fit
            raise Mismatch(f"{self.output.name!r} cannot be computed: {type(error).__name__}") from error

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the operator by its value."""
        graph.bypass(self.output, graph.constant(f"{self.result.name}_value", self.value))

    def _computed(self) -> np.ndarray[Any, Any]:
        if self._growth() > LARGEST_NEW_CONSTANT:
            raise Mismatch(f"{self.result.name!r} would be a large new constant")
        return _evaluate(self.output, [self.array(v) if v.name else None for v in self.operands], self.model.opset)

    def _growth(self) -> float:
        """The elements that the result has over those of the largest input, as far as that can be told beforehand."""
        operands = [value for value in self.operands if value.name]
        borrowed = [math.prod(value.shape) for value in operands if value.name in self.model.borrowed]
        if max(borrowed, default=0) > LARGEST_OF_BORROWED:
            return math.inf
        shapes: list[tuple[int, ...]] = [tuple(value.shape) for value in operands]
        largest = max(math.prod(shape) for shape in shapes)
        operator = self.output.op
        if operator in ("ConstantOfShape", "Expand", "Tile"):
            repeats = math.prod(float(size) for size in self.array(operands[-1]).reshape(-1))
            return repeats * (math.prod(shapes[0]) if operator == "Tile" else 1)
        if operator == "Range":
            start, limit, step = (float(self.array(value)) for value in operands)
            return abs((limit - start) / step) if step else 0
        if operator == "Gather":
            rows = shapes[0][int(self.output.attrs.get("axis", 0))]
            return math.prod(shapes[1]) * math.prod(shapes[0]) / max(rows, 1) - largest
        if operator in BROADCAST:
            return math.prod(np.broadcast_shapes(*shapes)) - largest
        return 0


def _evaluate(node: gs.Node, values: list[np.ndarray[Any, Any] | None], opset: int) -> np.ndarray[Any, Any]:
    from onnx.reference import ReferenceEvaluator  # slow to import, and most models have nothing to fold

    names = [f"i{i}" if value is not None else "" for i, value in enumerate(values)]
    attributes = {key: _attribute(value) for key, value in node.attrs.items()}
    proto = helper.make_node(node.op, names, ["o"], **attributes)
    infos = [helper.make_empty_tensor_value_info(name) for name in names if name]
    graph = helper.make_graph([proto], "fold", infos, [helper.make_empty_tensor_value_info("o")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    feed = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    results: Any = ReferenceEvaluator(model).run(None, feed)
    return np.asarray(results[0])


def _attribute(value: Any) -> Any:
    return numpy_helper.from_array(value.values) if isinstance(value, gs.Constant) else value
