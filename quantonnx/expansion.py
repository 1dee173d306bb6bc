"""How many nodes the local functions of a model stand for: thirty that call each other twice are a thousand million."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import ModelProto, NodeProto

from quantonnx.errors import ModelError

LARGEST = 1_000_000
"""Nodes beyond which a model is not inlined: fifty times those of large language models."""

_Key = tuple[str, str, str]


def refuse_explosion(proto: ModelProto) -> None:
    """Raises ModelError where inlining would give more than LARGEST nodes, or where functions are nested too deeply."""
    functions = {(item.domain, item.name, item.overload): item.node for item in proto.functions}
    sizes: dict[_Key, int] = {}

    def size(nodes: Iterable[NodeProto]) -> int:
        return sum(of_node((node.domain, node.op_type, node.overload)) for node in _all(nodes))

    def of_node(key: _Key) -> int:
        if key not in functions:
            return 1
        if key not in sizes:
            sizes[key] = 0  # a function that calls itself is the inliner's to refuse
            sizes[key] = size(functions[key])
        return sizes[key]

    try:
        found = size(proto.graph.node)
    except RecursionError:
        raise ModelError("the model's functions are nested too deeply", "inline them when exporting") from None
    if found > LARGEST:
        raise ModelError(f"the model's functions stand for {found:,} nodes", f"expected at most {LARGEST:,}")


def _all(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes, and those in bodies of If, Loop and Scan."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _all(body.node)
