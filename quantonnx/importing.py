"""From protobuf to a graph, with nothing lost.

The graph is built here on onnx-graphsurgeon's classes. Its own importer drops six kinds of attributes, stops at strings
that are not UTF-8, moves initializers into the bodies of If and Loop, and finds external data in the working directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from quantonnx.errors import ModelError
from quantonnx.reading import ExternalData, copy_fields
from quantonnx.schema_checks import refuse_unlike_schema
from quantonnx.weights import StoredValues, to_numpy_dtype

STANDARD_DOMAINS = ("", "ai.onnx")

_BODY_KINDS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class EmptyList(list[Any]):
    """An empty attribute that remembers of what kind (`AttributeProto.INTS`…) it was."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind


@dataclass
class Extras:
    """What a graph of onnx-graphsurgeon has no place for, by name where it belongs to a node or a value."""

    model: ModelProto = field(default_factory=ModelProto)
    graph: GraphProto = field(default_factory=GraphProto)
    nodes: dict[str, NodeProto] = field(default_factory=dict)
    values: dict[str, ValueInfoProto] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()  # in the file's order, with the initializers that are inputs too
    initializers: tuple[str, ...] = ()  # in the file's order
    files: frozenset[Path] = frozenset()  # where external data is


def import_graph(proto: ModelProto, external: ExternalData) -> tuple[gs.Graph, list[gs.Constant], Extras]:
    """Builds the graph; also returns its initializers, and what the graph has no place for."""
    importer = _Importer(proto, external)
    return importer.graph(), importer.constants(), importer.extras()


class _Importer:
    def __init__(self, proto: ModelProto, external: ExternalData) -> None:
        self._proto, self._external = proto, external
        self._tensors: dict[str, gs.Tensor] = {}
        self._known: dict[str, ValueInfoProto] = {}
        self._nodes: dict[str, NodeProto] = {}
        self._given: set[str] = set()
        self._opset = _standard_opset(proto)

    def graph(self) -> gs.Graph:
        proto = self._proto.graph
        _refuse_damaged_names(proto)
        for info in (*proto.value_info, *proto.output, *proto.input):
            self._known[info.name] = info
        for name, values in self._initializers():
            self._give(name, gs.Constant(name, values))
        inputs = [self._input(info) for info in proto.input if info.name not in self._tensors]
        names = unique_names(proto.node)
        outputs = [[self._output(name) for name in node.output] for node in proto.node]
        nodes = [self._node(*parts) for parts in zip(proto.node, names, outputs, strict=True)]
        results = [self._result(info.name) for info in proto.output]
        return self._assemble(nodes, inputs, results)

    def constants(self) -> list[gs.Constant]:
        return [tensor for tensor in self._tensors.values() if isinstance(tensor, gs.Constant)]

    def extras(self) -> Extras:
        model, graph, proto = ModelProto(), GraphProto(), self._proto.graph
        copy_fields(self._proto, model, without={"graph", "functions", "opset_import"})
        handled = {"node", "initializer", "sparse_initializer", "input", "output", "value_info"}
        copy_fields(proto, graph, without=handled)
        constants = {constant.name: None for constant in self.constants()}
        values = {name: info for name, info in self._known.items() if name in constants or _is_special(info)}
        inputs = tuple(info.name for info in proto.input)
        return Extras(model, graph, self._nodes, values, inputs, tuple(constants), frozenset(self._external.sizes))

    def _initializers(self) -> Iterator[tuple[str, StoredValues]]:
        for tensor in self._proto.graph.initializer:
            yield tensor.name, self._external.values(tensor)
        for sparse in self._proto.graph.sparse_initializer:
            yield sparse.values.name, self._external.sparse(sparse)

    def _give(self, name: str, tensor: gs.Tensor) -> gs.Tensor:
        if not name or name in self._tensors:
            raise ModelError(f"the value {name!r} is given more than once", "give every value its own name")
        self._tensors[name] = tensor
        return tensor

    def _input(self, info: ValueInfoProto) -> gs.Variable:
        return self._give(info.name, self._variable(info.name))

    def _output(self, name: str) -> gs.Variable:
        return self._give(name, self._variable(name)) if name else gs.Variable.empty()

    def _variable(self, name: str) -> gs.Variable:
        info = self._known.get(name)
        return gs.Variable(name) if info is None else gs.Variable(name, *value_type(info))

    def _read(self, name: str, reader: str) -> gs.Tensor:
        if not name:
            return gs.Variable.empty()
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelError(f"node {reader!r} reads {name!r}, which nothing gives", "export it again") from None

    def _result(self, name: str) -> gs.Tensor:
        if name not in self._tensors:
            raise ModelError(f"the graph's output {name!r} is given by no node", "export the model again")
        return self._tensors[name]

    def _node(self, proto: NodeProto, name: str, outputs: list[gs.Tensor]) -> gs.Node:
        if proto.domain in STANDARD_DOMAINS:
            refuse_unlike_schema(proto, name, self._opset)
        inputs = [self._read(read, name) for read in proto.input]
        attrs = {attr.name: self._attribute(attr) for attr in proto.attribute}
        if rest := _node_extras(proto):
            self._nodes[name] = rest
        domain = proto.domain if proto.domain not in STANDARD_DOMAINS else None
        return gs.Node(proto.op_type, name, attrs, inputs, outputs, domain)

    def _attribute(self, attr: AttributeProto) -> Any:
        decode = _DECODERS.get(attr.type)
        if decode and not attr.ref_attr_name:
            return decode(attr)
        for tensor in attribute_tensors(attr):
            self._external.make_inline(tensor)
        if attr.type == AttributeProto.TENSOR:
            return gs.Constant(attr.t.name, self._external.values(attr.t))
        return attr

    def _assemble(self, nodes: list[gs.Node], inputs: list[gs.Tensor], outputs: list[gs.Tensor]) -> gs.Graph:
        proto = self._proto
        domains = [*proto.opset_import]
        return gs.Graph(
            nodes,
            inputs,
            outputs,
            name=proto.graph.name,
            doc_string=proto.graph.doc_string,
            opset=self._opset,
            import_domains=domains,
            producer_name=proto.producer_name,
            producer_version=proto.producer_version,
            ir_version=proto.ir_version,
        )


def _standard_opset(proto: ModelProto) -> int:
    versions = {entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS}
    if len(versions) > 1:
        raise ModelError(f"the file names the opsets {sorted(versions)}, expected one", "export the model again")
    version = next(iter(versions), 1)
    if not 0 < version < 1 << 31:
        raise ModelError(f"the file names opset {version}", "expected 1 or more: export the model again")
    return version


def _refuse_damaged_names(graph: GraphProto) -> None:
    """A string that is not UTF-8 comes out of protobuf as bytes, and fails only when it is written."""
    nodes = (name for node in graph.node for name in (node.op_type, node.name, node.domain, *node.input, *node.output))
    values = (item.name for item in (*graph.value_info, *graph.input, *graph.output, *graph.initializer))
    attributes = (attribute.name for node in graph.node for attribute in node.attribute)
    damaged = next((name for name in chain(nodes, values, attributes) if isinstance(name, bytes)), None)
    if damaged is not None:
        raise ModelError(f"the name {damaged!r} is not UTF-8, so the file is damaged", "download or export it again")


def unique_names(nodes: Iterable[NodeProto]) -> list[str]:
    """Returns a name for each node: its own, or `Conv_12` by operator and position where that is missing or taken."""
    nodes = list(nodes)
    taken, seen, names = {node.name for node in nodes}, {""}, []
    for position, node in enumerate(nodes):
        name = node.name
        if name in seen:
            name = free_name(f"{node.op_type}_{position}", taken)
        seen.add(name)
        taken.add(name)
        names.append(name)
    return names


def free_name(name: str, taken: set[str]) -> str:
    """Returns `name`, followed by as many underscores as it takes to be new."""
    while name in taken:
        name += "_"
    return name


def value_type(info: ValueInfoProto) -> tuple[Any, list[int | str | None] | None, str]:
    """Returns the numpy dtype, the shape (None: unknown) and the kind of type as onnx-graphsurgeon calls it."""
    kind = info.type.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        return None, None, kind
    tensor = info.type.tensor_type
    shape = [_dimension(dim) for dim in tensor.shape.dim] if tensor.HasField("shape") else None
    return to_numpy_dtype(tensor.elem_type), shape, kind


def bodies(attr: AttributeProto) -> list[GraphProto]:
    """Returns the graphs inside an attribute of If, Loop, Scan and the like."""
    if attr.type not in _BODY_KINDS:
        return []
    return [attr.g] if attr.type == AttributeProto.GRAPH else [*attr.graphs]


def outer_reads(body: GraphProto) -> set[str]:
    """Returns the names that a body reads and does not itself give."""
    given = {item.name for item in (*body.input, *body.initializer)} | {s.values.name for s in body.sparse_initializer}
    given |= {name for node in body.node for name in node.output}
    reads = {name for node in body.node for name in node.input} | {info.name for info in body.output}
    for node in body.node:
        reads |= _inner_reads(node)
    return reads - given - {""}


def attribute_tensors(attr: AttributeProto) -> Iterator[TensorProto]:
    """Yields every tensor inside an attribute, however deep in bodies."""
    if attr.type == AttributeProto.TENSOR:
        yield attr.t
    yield from attr.tensors
    for sparse in (*attr.sparse_tensors, *([attr.sparse_tensor] if attr.HasField("sparse_tensor") else [])):
        yield from (sparse.values, sparse.indices)
    for body in bodies(attr):
        yield from body.initializer
        for sparse in body.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in body.node:
            for inner in node.attribute:
                yield from attribute_tensors(inner)


def _inner_reads(node: NodeProto) -> set[str]:
    return {name for attr in node.attribute for body in bodies(attr) for name in outer_reads(body)}


def _texts(attr: AttributeProto) -> Any:
    try:
        return [text.decode() for text in attr.strings] or EmptyList(attr.type)
    except UnicodeDecodeError:
        return attr


def _text(attr: AttributeProto) -> Any:
    try:
        return attr.s.decode()
    except UnicodeDecodeError:
        return attr


_DECODERS: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.INT: lambda attr: attr.i,
    AttributeProto.FLOAT: lambda attr: attr.f,
    AttributeProto.STRING: _text,
    AttributeProto.INTS: lambda attr: list(attr.ints) or EmptyList(attr.type),
    AttributeProto.FLOATS: lambda attr: list(attr.floats) or EmptyList(attr.type),
    AttributeProto.STRINGS: _texts,
}


def _node_extras(proto: NodeProto) -> NodeProto | None:
    if not (proto.doc_string or proto.metadata_props or proto.overload or len(proto.ListFields()) > 6):
        return None
    rest = NodeProto()
    copy_fields(proto, rest, without={"input", "output", "name", "op_type", "domain", "attribute"})
    return rest if rest.ByteSize() else None


def _dimension(dim: Any) -> int | str | None:
    kind = dim.WhichOneof("value")
    return None if kind is None else getattr(dim, kind)


def _is_special(info: ValueInfoProto) -> bool:
    if info.doc_string or info.metadata_props or info.type.denotation:
        return True
    if not info.type.HasField("tensor_type"):
        return info.type.WhichOneof("value") is not None
    return any(dim.denotation for dim in info.type.tensor_type.shape.dim)
