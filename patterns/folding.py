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

FOLDABLE = Operator(
    (
        *("Shape", "Gather", "Concat", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Range"),
        *("ConstantOfShape", "Expand", "Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Pow", "Equal", "Where", "Tile"),
    )
)
LARGEST_NEW_CONSTANT = 1 << 20


class FoldConstants(Conversion):
    """An operator whose inputs are all constants is computed once, unless the result would bloat the file."""

    operands = tensors()
    output = FOLDABLE(operands)

    def check(self) -> None:
        """Refuses computed inputs, public results and large new constants."""
        computed = next((v for v in self.operands if v.name and not isinstance(v, gs.Constant)), None)
        if computed is not None:
            raise Mismatch(f"{computed.name!r} is not a constant")
        if any(self.result is output for output in self.model.graph.outputs) or self.result.name in self.model.captured:
            raise Mismatch(f"{self.result.name!r} is an output of the graph or read by a body, and its name must stay")
        if self._size() > LARGEST_NEW_CONSTANT:
            raise Mismatch(f"{self.result.name!r} would be a large new constant")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the operator by its value."""
        value = _evaluate(self.output, [self.array(v) if v.name else None for v in self.operands], self.model.opset)
        graph.bypass(self.output, graph.constant(f"{self.result.name}_value", value))

    def _size(self) -> int:
        """The elements that the result adds over those of the inputs, as far as that can be told beforehand."""
        if self.output.op in ("ConstantOfShape", "Expand", "Tile"):
            shape = self.array(self.operands[-1]).astype(np.float64)
            repeated = np.prod(self.operands[0].shape) if self.output.op == "Tile" else 1.0
            return int(min(np.prod(shape) * repeated, 2.0**62))
        if self.output.op == "Range":
            start, limit, step = (float(self.array(v)) for v in self.operands)
            return math.ceil(abs((limit - start) / step)) if step else 0
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
    return np.asarray(ReferenceEvaluator(model).run(None, feed)[0])


def _attribute(value: Any) -> Any:
    return numpy_helper.from_array(value.values) if isinstance(value, gs.Constant) else value
