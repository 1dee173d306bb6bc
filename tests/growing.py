"""A graph that grows by what is drawn: nodes, constants and inputs, with the shapes that onnx infers a node at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
BATCH = 2
SCOPES = ("", "/", "/block/", "a b/", "layer.1.", "é/")


@dataclass
class Graph:
    """A graph that grows: `values` are those that a stage may read, `results` the float ones that nodes give."""

    draw: st.DrawFn
    opset: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[tuple[str, int, list[int]]] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    values: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    data: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def pick(self, *choices: Any) -> Any:
        """Draws one of the choices; the first is the simplest."""
        return self.draw(st.sampled_from(choices))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def input(self, shape: list[int], dtype: int = TensorProto.FLOAT) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append((name, dtype, shape))
        return self._give(name, helper.make_tensor_type_proto(dtype, shape))

    def value(self, *ranks: int) -> str:
        """Draws a value with one of these ranks, most often the newest; a new input where there is none."""
        fitting = [name for name in self.values if len(self.shapes[name]) in ranks]
        if not fitting:
            return self.input([BATCH, 4, 6, 5, 4][: ranks[0]])
        return fitting[-1] if self.number(0, 3) else str(self.pick(*reversed(fitting)))

    def weight(self, shape: Sequence[int], scale: float = 1.0, *, positive: bool = False) -> str:
        """A constant of random numbers, at times one that is there already."""
        known = [item.name for item in self.weights if item.name[0] == "w" and tuple(item.dims) == tuple(shape)]
        if known and not positive and not self.number(0, 3):
            return str(self.pick(*known))
        numbers = self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.normal(0, scale, shape)
        return self.constant(np.asarray(numbers, np.float32), "p" if positive else "w")

    def constant(self, numbers: Any, prefix: str = "c") -> str:
        """A constant: an initializer, or the result of a node."""
        array = np.asarray(numbers)
        array = array.astype(np.int64) if array.dtype.kind == "i" else array
        name = f"{prefix}{len(self.data)}"
        tensor = numpy_helper.from_array(array, name)
        self.data[name], self.types[name] = tensor, helper.make_tensor_type_proto(tensor.data_type, array.shape)
        self.shapes[name] = list(array.shape)
        if self.number(0, 3):
            self.weights.append(tensor)
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], f"constant_{name}", value=tensor))
        return name

    def scalar(self, number: float) -> str:
        return self.constant(np.full(self.pick((), (1,)), number, np.float32))

    def node(self, op: str, *inputs: str, shape: list[int] | None = None, **attrs: Any) -> str:
        """Adds a node and returns its output, which has that shape where onnx cannot know it."""
        return self.split(op, *inputs, outputs=1, shape=shape, **attrs)[0]

    def split(self, op: str, *inputs: str, outputs: int, shape: list[int] | None = None, **attrs: Any) -> list[str]:
        """Adds a node and returns all of its outputs."""
        names = [f"v{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        name = self.pick(f"{op}_{len(self.nodes)}", "", f"{self.pick(*SCOPES)}{op}_{len(self.nodes)}")
        node = helper.make_node(op, list(inputs), names, name, **attrs)
        schema = onnx.defs.get_schema(op, self.opset)
        given = [each for each in inputs if each]
        types = onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            {each: self.types[each] for each in given},
            {each: self.data[each] for each in given if each in self.data},
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=8,
        )
        self.nodes.append(node)
        for each in names:
            kind = types[each]
            self._give(each, kind if shape is None else helper.make_tensor_type_proto(TensorProto.FLOAT, shape))
        return names

    def swapped(self, op: str, first: str, second: str) -> str:
        """Adds a node of two operands in either order."""
        return self.node(op, *(self.pick((first, second), (second, first))))

    def _give(self, name: str, kind: onnx.TypeProto) -> str:
        shape = [dim.dim_value for dim in kind.tensor_type.shape.dim]
        self.types[name], self.shapes[name] = kind, shape
        if kind.tensor_type.elem_type == TensorProto.FLOAT and name[0] == "v":
            self.results.append(name)
        if kind.tensor_type.elem_type == TensorProto.FLOAT and shape and 0 < np.prod(shape) < 5000:
            self.values.append(name)
        return name
