"""Small models for tests, written as ONNX text.

A value that the text declares and nothing gives becomes an initializer of random numbers, so that a test shows shapes
and not data: `<float[4,3,3,3] w>`. A name that starts with `variance` gets positive ones.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.pattern import Pattern

Feeds = dict[str, np.ndarray]

NETWORK = """
network (float[N,3,8,8] image) => (float[N,5] scores)
<float[8,3,3,3] weight, float[8] bias, float[8,8,1,1] inner, float[8,5] matrix, float[5] offset> {
    first = Conv <pads: ints = [1, 1, 1, 1]> (image, weight, bias)
    positive = Relu (first)
    second = Conv (positive, inner)
    total = Add (second, positive)
    pooled = GlobalAveragePool (total)
    flat = Flatten (pooled)
    scores = Gemm (flat, matrix, offset)
}
"""
"""A small image classifier: convolutions, a residual sum, pooling and a linear layer."""


def parse(graph: str, *, opset: int = 17, domain: str = "", seed: int = 0) -> onnx.ModelProto:
    """Returns the model of a graph in ONNX text, with random weights; `domain` is a further one that it imports.

    A text that starts with its own `<ir_version: …>` is the whole model.
    """
    further = f', "{domain}": 1' if domain else ""
    header = f'<ir_version: 8, opset_import: ["": {opset}{further}]> '
    model = onnx.parser.parse_model(graph if graph.startswith("<") else header + graph)
    given = {name for node in model.graph.node for name in node.output}
    given |= {item.name for item in model.graph.initializer}
    rng = np.random.default_rng(seed)
    for info in list(model.graph.value_info):
        if info.name not in given:
            values = _random(rng, info, positive=info.name.startswith("variance"))
            model.graph.initializer.append(numpy_helper.from_array(values, info.name))
            model.graph.value_info.remove(info)
    return model


def read(graph: str, **options: object) -> Model:
    """Returns `parse(graph)` as a Model."""
    return Model.read(parse(graph, **options))  # type: ignore[arg-type]


def feeds_of(proto: onnx.ModelProto, *, seed: int = 1) -> Feeds:
    """Returns random inputs for a model; dimensions that have no number are 2."""
    rng = np.random.default_rng(seed)
    weights = {item.name for item in proto.graph.initializer}
    return {info.name: _random(rng, info) for info in proto.graph.input if info.name not in weights}


def run(model: Model | onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Returns the outputs by name under ONNX Runtime, with its optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model.to_bytes() if isinstance(model, Model) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same_results(before: Model | onnx.ModelProto, after: Model | onnx.ModelProto) -> None:
    """Asserts that two models have the same outputs, up to the rounding of float32."""
    proto = before.to_proto() if isinstance(before, Model) else before
    feeds = feeds_of(proto)
    expected, found = run(proto, feeds), run(after, feeds)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        scale = np.abs(values).max() if values.size else 1.0
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5 * max(scale, 1.0), err_msg=name)


def producer(model: Model, name: str):  # type: ignore[no-untyped-def]  # onnx-graphsurgeon ships no types
    """Returns the node that gives the value `name`."""
    return next(node for node in model.graph.nodes for output in node.outputs if output.name == name)


def match(pattern: type[Pattern], model: Model, output: str = "y") -> Pattern | None:
    """Returns the match of a pattern that gives `output`."""
    return Matcher(model).match(pattern, producer(model, output))


def why_not(pattern: type[Pattern], model: Model, output: str = "y") -> str | None:
    """Returns why a pattern does not give `output`."""
    return Matcher(model).why_not(pattern, producer(model, output))


def operators(model: Model) -> list[str]:
    """Returns the operators of a model in the order of its nodes."""
    return [node.op for node in model.graph.nodes]


def _random(rng: np.random.Generator, info: onnx.ValueInfoProto, *, positive: bool = False) -> np.ndarray:
    tensor = info.type.tensor_type
    shape = [dim.dim_value or 2 for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    values = rng.uniform(0.5, 1.5, shape) if positive else rng.normal(size=shape)
    return np.asarray(values).astype(dtype)
