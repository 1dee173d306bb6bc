"""How much the local functions of a model stand for: thirty that call each other twice are a thousand million nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from onnx import FunctionProto, ModelProto, NodeProto

from quantonnx.errors import ModelError

LARGEST = 1_000_000
"""Nodes beyond which a model is not inlined: fifty times those of large language models."""

LARGEST_COPIES = 1 << 30
"""Bytes that inlining may add to those of the functions themselves; it takes three times as much memory."""

_Key = tuple[str, str, str]


class _Size(NamedTuple):
    nodes: int
    bytes: int


def refuse_explosion(proto: ModelProto) -> None:
    """Raises ModelError where inlining would give more than LARGEST nodes, or copies of more than LARGEST_COPIES bytes,
    or where functions are nested too deeply."""
    functions = {(item.domain, item.name, item.overload): item for item in proto.functions}
    own = {key: _bytes(item) for key, item in functions.items()}
    sizes: dict[_Key, _Size] = {}

    def size(nodes: Iterable[NodeProto], own: int = 0) -> _Size:
        found = [of_node((node.domain, node.op_type, node.overload)) for node in _all(nodes)]
        return _Size(sum(each.nodes for each in found), own + sum(each.bytes for each in found))

    def of_node(key: _Key) -> _Size:
        if key not in functions:
            return _Size(1, 0)
        if key not in sizes:
            sizes[key] = _Size(0, 0)  # a function that calls itself is the inliner's to refuse
            sizes[key] = size(functions[key].node, own[key])
        return sizes[key]

    try:
        found = size(proto.graph.node)
    except RecursionError:
        raise ModelError("the model's functions are nested too deeply", "inline them when exporting") from None
    if found.nodes > LARGEST:
        raise ModelError(f"the model's functions stand for {found.nodes:,} nodes", f"expected at most {LARGEST:,}")
    most = LARGEST_COPIES + sum(own.values())
    if found.bytes > most:
        problem = f"the model's functions stand for {found.bytes / 1e9:.1f} GB"
        raise ModelError(problem, f"expected at most {most / 1e9:.1f} GB")


def _bytes(function: FunctionProto) -> int:
    return sum(node.ByteSize() for node in function.node)


def _all(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes, and those in bodies of If, Loop and Scan."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _all(body.node)
