"""Names inside the bodies of If, Loop and Scan, which stay as they are."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto

from quantonnx.explaining.findings import Explanation
from quantonnx.importing import bodies
from quantonnx.model import Model

_RULE = "control flow: bodies of If, Loop and Scan are kept as they are"
_CHANGES = ("move it out of the body: export with the condition or trip count fixed",)


def find_in_bodies(model: Model, name: str, *, nodes: bool = True, tensors: bool = True) -> Explanation | None:
    """Returns the explanation of a node or tensor inside a body, or None where no body has that name."""
    for owner in model.graph.nodes:
        values = (value for value in owner.attrs.values() if type(value) is AttributeProto)
        for body in (body for value in values for body in bodies(value)):
            for node in _nodes(body):
                where = f"is in the body of {owner.op} {owner.name!r}"
                if nodes and name and node.name == name:
                    return _explained(
                        name, f"{node.op_type} node", f"{node.op_type} {name!r} {where}, nothing in it is quantized"
                    )
                if tensors and name in node.output:
                    return _explained(name, "tensor in a body", f"no pair stands on {name!r}: it {where}")
    return None


def _explained(name: str, kind: str, answer: str) -> Explanation:
    return Explanation(name, kind, answer, _RULE, _CHANGES)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
