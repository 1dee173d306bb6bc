"""Names inside the bodies of If, Loop and Scan: a body that is quantized on its own is asked as a model of its own."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from quantonnx.bodies import open_bodies, owner_of
from quantonnx.decisions import Decider
from quantonnx.explaining.findings import Explanation
from quantonnx.explaining.view import View
from quantonnx.importing import bodies
from quantonnx.model import Model
from quantonnx.plan import Plan
from quantonnx.quantized import QuantizedModel

_CHANGES = ("move it out of the body: export with the condition or trip count fixed",)


def views(original: Model, quantized: QuantizedModel, plan: Plan) -> Iterator[View]:
    """Yields the model itself to be asked, then its bodies, however deep."""
    yield View(original, quantized, plan)
    for body in open_bodies(original):
        inner = quantized.bodies.get(body.name)
        if body.model is not None and inner is not None:
            yield from views(body.model, inner, plan.bodies[body.name])


def find_in_closed(model: Model, name: str, *, nodes: bool = True, tensors: bool = True) -> Explanation | None:
    """Returns the explanation of a node or tensor in a body that is left as it is, or None where none has that name."""
    for body in open_bodies(model):
        if body.model is not None:
            found = find_in_closed(body.model, name, nodes=nodes, tensors=tensors)
            if found is not None:
                return found
            continue
        owner, attribute = owner_of(model, body.name)
        where = f"is in the body of {owner.op} {owner.name!r}"
        for node in _nodes(owner.attrs[attribute].g):
            if nodes and name and node.name == name:
                answer = f"{node.op_type} {name!r} {where}, nothing in it is quantized: {body.reason}"
                return _explained(name, f"{node.op_type} node", answer)
            if tensors and name in node.output:
                answer = f"no pair stands on {name!r}: it {where}, nothing in it is quantized: {body.reason}"
                return _explained(name, "tensor in a body", answer)
    return None


def _explained(name: str, kind: str, answer: str) -> Explanation:
    return Explanation(name, kind, answer, Decider.BODY.value, _CHANGES)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in bodies(attribute):
                yield from _nodes(inner)
