"""Models of parallel branches with pairs in any format, whatever a target or a configuration would say to them.

Branch i gives `yi` from `x` and the weight `wi`.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from quantonnx.formats import Parameters, TensorFormat
from quantonnx.insertion import insert_pairs, needed_opset
from quantonnx.model import Model
from quantonnx.pattern import Edge, Role
from quantonnx.sites import Site

LOW, HIGH = -1.3, 1.7  # the range of x, narrower than random data, so that it saturates on both sides
OUT_LOW, OUT_HIGH = -9.0, 8.0


def written(
    proto: onnx.ModelProto,
    weights: list[TensorFormat],
    activations: list[TensorFormat] | None = None,
    *,
    outputs: bool = False,
    float_weights: bool = False,
    contrib: bool = False,
    low: float = OUT_LOW,
) -> Model:
    """Puts pairs on the weight of each branch, and as asked on its input and on its output, which starts at `low`."""
    model = Model.read(proto)
    values, nodes = model.tensors(), {value.name: node.name for node in model.graph.nodes for value in node.inputs}
    numbers: dict[Site, Parameters] = {}
    for i, fmt in enumerate(weights):
        node = nodes[f"w{i}"]
        weight = Site(f"w{i}", (Role.WEIGHT,), fmt, (Edge(node, 1),), "Branch", f"y{i}")
        numbers[weight] = fmt.parameters(*fmt.extremes(model.array(values[f"w{i}"])))
        for own in activations[i : i + 1] if activations else ():
            site = Site("x", (Role.INPUT,), own, (Edge(node, 0),), "Branch", f"y{i}", "x")
            numbers[site] = own.parameters(LOW, HIGH)
            if outputs:
                result = replace(site, tensor=f"y{i}", roles=(Role.OUTPUT,), edges=(), source=f"y{i}", whole=True)
                numbers[result] = own.parameters(low, OUT_HIGH)
    model = model.with_opset(needed_opset(tuple(numbers), contrib=contrib))
    insert_pairs(model, tuple(numbers), numbers, float_weights=float_weights, contrib=contrib)
    return model
