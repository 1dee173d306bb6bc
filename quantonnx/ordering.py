"""The order of nodes, which of them are needed, and copies of them.

Everything goes by identity: nodes of onnx-graphsurgeon are equal by content and have no hash; its own sort recurses,
and its own clean-up compares.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Iterable
from typing import Any

import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto

from quantonnx.errors import ModelError
from quantonnx.importing import bodies, outer_reads


def body_reads(node: gs.Node) -> set[str]:
    """Returns the names of outer values that the bodies (If, Loop, Scan…) of a node read."""
    return {name for _, body in body_graphs(node) for name in outer_reads(body)}


def body_graphs(node: gs.Node) -> list[tuple[str, GraphProto]]:
    """Returns the bodies of a node, each with the name of the attribute in which it is."""
    held = [(name, value) for name, value in node.attrs.items() if type(value) is AttributeProto]
    return [(name, body) for name, value in held for body in bodies(value)]


def has_body(node: gs.Node) -> bool:
    """True for If, Loop, Scan and every other node that carries a graph."""
    return bool(body_graphs(node))


def drop_dead_nodes(graph: gs.Graph) -> None:
    """Removes nodes that no graph output depends on, and unlinks them from what they read."""
    producers = _producers(graph.nodes)
    stack = [producers.get(output.name) for output in graph.outputs]
    live: set[int] = set()
    while stack:
        node = stack.pop()
        if node is None or id(node) in live:
            continue
        live.add(id(node))
        stack.extend(producers.get(name) for name in _reads(node))
    dead = [node for node in graph.nodes if id(node) not in live]
    _unlink(dead)
    list.__setitem__(graph.nodes, slice(None), [node for node in graph.nodes if id(node) in live])


def sort_nodes(graph: gs.Graph) -> None:
    """Puts every node after those that it reads from, otherwise as before; a cycle is a ModelError."""
    nodes = list(graph.nodes)
    producers = {name: index for index, node in enumerate(nodes) for name in _gives(node)}
    readers: list[list[int]] = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for producer in {producers[name] for name in _reads(node) if name in producers}:
            readers[producer].append(index)
            waiting[index] += 1
    order = _kahn(readers, waiting)
    if len(order) < len(nodes):
        stuck = next(index for index, count in enumerate(waiting) if count)
        raise ModelError(f"the graph has a cycle at node {nodes[stuck].name!r}", "a node cannot read its own result")
    list.__setitem__(graph.nodes, slice(None), [nodes[index] for index in order])


def copy_graph(graph: gs.Graph, kept: list[gs.Constant]) -> tuple[gs.Graph, list[gs.Constant]]:
    """Returns a graph of new nodes and values, and the twins of `kept`; arrays, lazy values and bodies are shared."""
    twins: dict[int, gs.Tensor] = {}

    def twin(tensor: gs.Tensor) -> gs.Tensor:
        found = twins.get(id(tensor))
        if found is None:
            found = twins[id(tensor)] = _copy_tensor(tensor)
        return found

    def twin_node(node: gs.Node) -> gs.Node:
        attrs = {name: _copy_attribute(value) for name, value in node.attrs.items()}
        inputs, outputs = [twin(item) for item in node.inputs], [twin(item) for item in node.outputs]
        return gs.Node(node.op, node.name, attrs, inputs, outputs, node.domain)

    new = gs.Graph(
        [twin_node(node) for node in graph.nodes],
        [twin(item) for item in graph.inputs],
        [twin(item) for item in graph.outputs],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
        import_domains=list(graph.import_domains or ()),
        producer_name=graph.producer_name,
        producer_version=graph.producer_version,
        ir_version=graph.ir_version,
    )
    return new, [twin(item) for item in kept]


def restore_type(value: gs.Variable, known: gs.Variable) -> None:
    """Gives a value the type that it had, where it has none."""
    if value.dtype is None:
        value.dtype, value.type = known.dtype, known.type
    if value.shape is None and known.shape is not None:
        value.shape = list(known.shape)


def _copy_tensor(tensor: gs.Tensor) -> gs.Tensor:
    if isinstance(tensor, gs.Constant):
        return gs.Constant(tensor.name, tensor._values, tensor.data_location, tensor._export_dtype)
    shape = None if tensor.shape is None else list(tensor.shape)
    return gs.Variable(tensor.name, tensor.dtype, shape, tensor.type)


def _copy_attribute(value: Any) -> Any:
    if isinstance(value, list):
        return copy.copy(value)
    return _copy_tensor(value) if isinstance(value, gs.Constant) else value


def _kahn(readers: list[list[int]], waiting: list[int]) -> list[int]:
    ready = [index for index, count in enumerate(waiting) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return order


def _producers(nodes: Iterable[gs.Node]) -> dict[str, gs.Node]:
    return {name: node for node in nodes for name in _gives(node)}


def _gives(node: gs.Node) -> list[str]:
    return [output.name for output in node.outputs if output.name]


def _reads(node: gs.Node) -> list[str]:
    names = [value.name for value in node.inputs]
    return [*names, *body_reads(node)] if has_body(node) else names


def _unlink(nodes: list[gs.Node]) -> None:
    dead = {id(node) for node in nodes}
    values = {id(value): value for node in nodes for value in node.inputs}
    for value in values.values():
        list.__setitem__(value.outputs, slice(None), [node for node in value.outputs if id(node) not in dead])
    for node in nodes:
        list.clear(node.inputs)
