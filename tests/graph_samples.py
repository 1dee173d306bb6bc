"""Valid random graphs from the operators that the patterns know: `samples()` is a strategy of hypothesis.

A graph grows stage by stage. Every stage reads a value that is there, so that values leak to other readers, and any
value may be an output too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from growing import BATCH, Array, Graph
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_stages import STAGES

INPUTS = ([2, 16, 6, 6], [2, 6, 16], [2, 32], [2, 4, 6, 6], [2, 16, 10], [2, 2, 4, 4, 4])


@dataclass(frozen=True)
class Sample:
    """A random model and what fits it."""

    proto: onnx.ModelProto
    seed: int

    def __repr__(self) -> str:
        light = onnx.ModelProto()
        light.CopyFrom(self.proto)
        weights = ", ".join(f"{item.name}{list(item.dims)}" for item in light.graph.initializer)
        light.graph.ClearField("initializer")
        for attribute in (attribute for node in light.graph.node for attribute in node.attribute):
            if attribute.HasField("t") and np.prod(attribute.t.dims) > 8:
                attribute.CopyFrom(helper.make_attribute(attribute.name, f"{list(attribute.t.dims)}"))
        return f"seed {self.seed}, weights {weights}, {onnx.printer.to_text(light)}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what hypothesis asks for
        printer.text(repr(self))

    def feeds(self, count: int) -> list[dict[str, Array]]:
        """Returns random feeds."""
        rng = np.random.default_rng(self.seed + 1)
        return [{info.name: _random(rng, info) for info in self.proto.graph.input} for _ in range(count)]


@st.composite
def samples(draw: st.DrawFn, most: int = 8) -> Sample:
    """Models of up to `most` stages, of opset 11 to 22, with one or more inputs and outputs."""
    seed = draw(st.integers(0, 2**16))
    graph = Graph(draw, draw(st.integers(11, 22)), np.random.default_rng(seed))
    graph.input(graph.pick(*INPUTS))
    for _ in range(draw(st.integers(1, most))):
        graph.pick(*STAGES)(graph)
    if not graph.results:  # a stage may add nothing
        graph.node("Relu", graph.values[0])
    return Sample(_model(graph, _outputs(graph)), seed)


def in_a_branch(sample: Sample) -> Sample:
    """Returns the same graph as a branch of If, which reads inputs and every other weight from outside."""
    inner, outer, given = _taken_apart(sample)
    outer.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "yes"))
    zero = numpy_helper.from_array(np.float32(0))
    zeros = [helper.make_node("Constant", [], [f"zero_{name}"], value=zero) for name in given]
    infos = [helper.make_tensor_value_info(f"zero_{name}", TensorProto.FLOAT, None) for name in given]
    other = helper.make_graph(zeros, "other", [], infos)
    outer.graph.node.append(helper.make_node("If", ["yes"], given, "choice", then_branch=inner, else_branch=other))
    return Sample(outer, sample.seed)


def in_a_loop(sample: Sample) -> Sample:
    """Returns the same graph as the body of a Loop that runs twice, with both results."""
    inner, outer, given = _taken_apart(sample)
    inner.node.append(helper.make_node("Identity", ["going"], ["on"], "go_on"))
    inner.input.append(helper.make_tensor_value_info("step", TensorProto.INT64, []))
    inner.input.append(helper.make_tensor_value_info("going", TensorProto.BOOL, []))
    results = [helper.make_tensor_value_info("on", TensorProto.BOOL, []), *inner.output]
    inner.ClearField("output")
    inner.output.extend(results)
    outer.graph.initializer.append(numpy_helper.from_array(np.asarray(2), "twice"))
    for output in outer.graph.output:
        output.type.tensor_type.shape.dim.add()
    outer.graph.node.append(helper.make_node("Loop", ["twice", ""], given, "repeat", body=inner))
    return Sample(outer, sample.seed)


def _taken_apart(sample: Sample) -> tuple[onnx.GraphProto, onnx.ModelProto, list[str]]:
    """What becomes a body, the model around it without nodes, and the names of its outputs."""
    inner, outer = onnx.GraphProto(), onnx.ModelProto()
    inner.CopyFrom(sample.proto.graph)
    outer.CopyFrom(sample.proto)
    weights = list(inner.initializer)
    for graph, fields in ((inner, ("initializer", "input")), (outer.graph, ("initializer", "node"))):
        for name in fields:
            graph.ClearField(name)
    inner.name = "body"
    given = [output.name for output in outer.graph.output]
    for output in inner.output:
        output.name = f"inner_{output.name}"
    for node in inner.node:
        for side in (node.input, node.output):
            side[:] = [f"inner_{name}" if name in given else name for name in side]
    inner.initializer.extend(weights[::2])
    outer.graph.initializer.extend(weights[1::2])
    return inner, outer, given


def _outputs(graph: Graph) -> list[str]:
    read = {name for node in graph.nodes for name in node.input}
    ends = [name for name in graph.results if name not in read]
    leaks = graph.draw(st.lists(st.sampled_from(graph.results), max_size=2, unique=True))
    return list(dict.fromkeys([*ends, *leaks]))


def _model(graph: Graph, outputs: list[str]) -> onnx.ModelProto:
    dynamic = graph.flag()
    infos = [
        helper.make_tensor_value_info(name, dtype, ["N", *shape[1:]] if dynamic and shape[0] == BATCH else shape)
        for name, dtype, shape in graph.inputs
    ]
    rank = {name: len(graph.shapes[name]) for name in outputs}
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank[name]) for name in outputs]
    proto = helper.make_graph(graph.nodes, "random", infos, results, graph.weights)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=10)


def _random(rng: np.random.Generator, info: onnx.ValueInfoProto) -> Array:
    shape = [dim.dim_value or BATCH for dim in info.type.tensor_type.shape.dim]
    if info.type.tensor_type.elem_type == TensorProto.INT64:
        return rng.integers(0, 9, shape)
    return rng.normal(size=shape).astype(np.float32)
