"""From a file to a graph: every refusal of a bad file, and what onnx-graphsurgeon's importer would lose or choke on.

The graph is built here on onnx-graphsurgeon's classes. Its own importer drops six kinds of attributes, stops at strings
that are not UTF-8, moves initializers into the bodies of If and Loop, and finds external data in the working directory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, inliner

from quantonnx.errors import ModelError
from quantonnx.weights import ExternalValues, InlineValues, SparseValues, StoredValues, to_numpy_dtype

Source = str | os.PathLike[str] | bytes | ModelProto

_BODY_KINDS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_NOT_ONNX_HINT = "pass a file that torch.onnx.export or another exporter wrote"
_STARTS = (
    (b"version https://git-lfs", "run `git lfs pull` to get the file that this pointer stands for"),
    (b"PK", "this is a zip archive; unpack it, or export the PyTorch model with torch.onnx.export"),
    (b"<", "this is a web page; download the file itself"),
)


class EmptyList(list[Any]):
    """An empty attribute that remembers of what kind (`AttributeProto.INTS`…) it was."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind


@dataclass(frozen=True)
class Opened:
    """A source that was parsed: the protobuf, the file it came from (None: memory), the SHA-256 of its bytes."""

    proto: ModelProto
    path: Path | None
    digest: str


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


def open_source(source: Source) -> Opened:
    """Parses a path, bytes or a ModelProto (which is not kept); ModelError says what is wrong with it."""
    if isinstance(source, ModelProto):
        data, path, name = source.SerializeToString(deterministic=True), None, "the model"
    elif isinstance(source, bytes):
        data, path, name = source, None, "the model"
    else:
        path = Path(source)
        data, name = _read_file(path), repr(str(path))
    return Opened(_parse(data, name), path, hashlib.sha256(data).hexdigest())


def inline_functions(proto: ModelProto) -> ModelProto:
    """Returns the model with its local functions inlined; the data of initializers does not go through the inliner."""
    if not proto.functions:
        return proto
    light, weights = set_weights_aside(proto)
    try:
        inlined = inliner.inline_local_functions(light, convert_version=True)
    except Exception as error:  # onnx raises its C++ errors as several unrelated types
        raise ModelError(f"the model's functions cannot be inlined: {_first_line(error)}") from error
    if inlined.functions:
        names = ", ".join(function.name for function in inlined.functions)
        raise ModelError(f"functions {names} cannot be inlined", "inline them when exporting")
    del inlined.graph.initializer[:], inlined.graph.sparse_initializer[:]
    inlined.graph.initializer.extend(weights.initializer)
    inlined.graph.sparse_initializer.extend(weights.sparse_initializer)
    return inlined


def set_weights_aside(proto: ModelProto) -> tuple[ModelProto, GraphProto]:
    """Returns a copy of the model whose initializers have a type and no data, and the graph that has the data."""
    light = ModelProto()
    copy_fields(proto, light, without={"graph"})
    copy_fields(proto.graph, light.graph, without={"initializer", "sparse_initializer"})
    for tensor in proto.graph.initializer:
        light.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    for sparse in proto.graph.sparse_initializer:
        light.graph.initializer.add(name=sparse.values.name, dims=sparse.dims, data_type=sparse.values.data_type)
    return light, proto.graph


def copy_fields(source: Message, target: Any, *, without: set[str]) -> None:
    """Copies every field that is set, also one that this code has never heard of, except those named."""
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name in without:
            continue
        if isinstance(value, Message):
            getattr(target, name).CopyFrom(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(target, name, value)
        else:
            getattr(target, name).extend(value)


def import_graph(proto: ModelProto, path: Path | None, folder: Path | None) -> tuple[gs.Graph, list[gs.Constant], Extras]:
    """Builds the graph; also returns the constants that no node reads, and what the graph has no place for."""
    importer = _Importer(proto, ExternalData(path, folder))
    return importer.graph(), importer.unread(), importer.extras()


class ExternalData:
    """Finds the external data of tensors, and refuses what is missing, too short or outside the model's folder."""

    def __init__(self, path: Path | None, folder: Path | None) -> None:
        self.sizes: dict[Path, int] = {}
        self._folder = folder
        self._roots = [folder.resolve()] if folder else []
        if path:
            self._roots.append(path.resolve().parent)  # a hub's cache links the model and its data to the same folder

    def values(self, tensor: TensorProto) -> StoredValues:
        """Returns the values of a tensor, wherever they are, unread."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return InlineValues(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._path(tensor.name, entries.get("location", ""))
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        except ValueError:
            raise ModelError(f"initializer {tensor.name!r} has an external offset that is no number") from None
        values = ExternalValues(_without_data(tensor), path, offset)
        self._check_range(values, length)
        return values

    def make_inline(self, tensor: TensorProto) -> None:
        """Loads a tensor of an attribute, which has to stay whole when the model is written elsewhere."""
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = b"".join(self.values(tensor).chunks())
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")

    def _path(self, name: str, location: str) -> Path:
        if self._folder is None:
            raise ModelError(f"initializer {name!r} is in the external file {location!r}", "pass the model's path")
        if not location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelError(
                f"initializer {name!r} points at {location!r}, outside the model's folder",
                "put the data beside the model and export again",
            )
        path = (self._folder / location).resolve()
        if path not in self.sizes:
            self.sizes[path] = self._size(name, location, path)
        return path

    def _size(self, name: str, location: str, path: Path) -> int:
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ModelError(f"external data {location!r} of {name!r} is a link to outside the model's folder", "copy it there")
        if not path.is_file():
            raise ModelError(f"external data file {location!r} is missing", f"put it into {str(self._folder)!r}")
        return path.stat().st_size

    def _check_range(self, values: ExternalValues, length: int) -> None:
        name, size, end = values.proto.name, self.sizes[values.path], values.offset + values.nbytes
        if values.offset < 0 or end > size or length not in (-1, values.nbytes):
            raise ModelError(
                f"external data file {values.path.name!r} is too short or damaged: {name!r} needs bytes "
                f"{values.offset} to {end}, the file has {size}",
                "download or export it again",
            )


class _Importer:
    def __init__(self, proto: ModelProto, external: ExternalData) -> None:
        self._proto, self._external = proto, external
        self._tensors: dict[str, gs.Tensor] = {}
        self._known: dict[str, ValueInfoProto] = {}
        self._nodes: dict[str, NodeProto] = {}
        self._given: set[str] = set()

    def graph(self) -> gs.Graph:
        proto = self._proto.graph
        for info in (*proto.value_info, *proto.output, *proto.input):
            self._known[info.name] = info
        for name, values in self._initializers():
            self._give(name, gs.Constant(name, values))
        inputs = [self._input(info) for info in proto.input if info.name not in self._tensors]
        names = unique_names(proto.node)
        outputs = [[self._output(name) for name in node.output] for node in proto.node]
        nodes = [self._node(*parts) for parts in zip(proto.node, names, outputs, strict=True)]
        results = [self._read(info.name, "the graph's outputs") for info in proto.output]
        return self._assemble(nodes, inputs, results)

    def unread(self) -> list[gs.Constant]:
        return [t for t in self._tensors.values() if isinstance(t, gs.Constant) and not t.outputs]

    def extras(self) -> Extras:
        model, graph, proto = ModelProto(), GraphProto(), self._proto.graph
        copy_fields(self._proto, model, without={"graph", "functions", "opset_import"})
        handled = {"node", "initializer", "sparse_initializer", "input", "output", "value_info"}
        copy_fields(proto, graph, without=handled)
        constants = tuple(name for name, tensor in self._tensors.items() if isinstance(tensor, gs.Constant))
        values = {name: info for name, info in self._known.items() if _is_special(info) or name in constants}
        inputs = tuple(info.name for info in proto.input)
        return Extras(model, graph, self._nodes, values, inputs, constants, frozenset(self._external.sizes))

    def _initializers(self) -> Iterator[tuple[str, StoredValues]]:
        for tensor in self._proto.graph.initializer:
            yield tensor.name, self._external.values(tensor)
        for sparse in self._proto.graph.sparse_initializer:
            yield sparse.values.name, self._sparse(sparse)

    def _sparse(self, sparse: SparseTensorProto) -> StoredValues:
        return SparseValues(sparse.dims, self._external.values(sparse.values), self._external.values(sparse.indices))

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
            raise ModelError(f"{reader} reads {name!r}, which nothing gives", "export the model again") from None

    def _node(self, proto: NodeProto, name: str, outputs: list[gs.Tensor]) -> gs.Node:
        inputs = [self._read(read, f"node {name!r}") for read in proto.input]
        attrs = {attr.name: self._attribute(attr) for attr in proto.attribute}
        if rest := _node_extras(proto):
            self._nodes[name] = rest
        domain = proto.domain if proto.domain not in ("", "ai.onnx") else None
        return gs.Node(proto.op_type, name, attrs, inputs, outputs, domain)

    def _attribute(self, attr: AttributeProto) -> Any:
        decode = _DECODERS.get(attr.type)
        if decode and not attr.ref_attr_name:
            return decode(attr)
        for tensor in attribute_tensors(attr):
            self._external.make_inline(tensor)
        if attr.type == AttributeProto.TENSOR:
            return gs.Constant(attr.t.name, InlineValues(attr.t))
        return attr

    def _assemble(self, nodes: list[gs.Node], inputs: list[gs.Tensor], outputs: list[gs.Tensor]) -> gs.Graph:
        proto = self._proto
        domains = [*proto.opset_import]
        opset = next((entry.version for entry in domains if entry.domain in ("", "ai.onnx")), 1)
        return gs.Graph(
            nodes,
            inputs,
            outputs,
            name=proto.graph.name,
            doc_string=proto.graph.doc_string,
            opset=opset,
            import_domains=domains,
            producer_name=proto.producer_name,
            producer_version=proto.producer_version,
            ir_version=proto.ir_version,
        )


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


def _without_data(tensor: TensorProto) -> TensorProto:
    light = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, doc_string=tensor.doc_string)
    light.metadata_props.extend(tensor.metadata_props)
    return light


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no file {str(path)!r}", "check the path") from None
    except IsADirectoryError:
        raise ModelError(f"{str(path)!r} is a folder", "name one .onnx file") from None
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}", "check its permissions") from error


def _parse(data: bytes, name: str) -> ModelProto:
    if not data:
        raise ModelError(f"{name} is empty (0 bytes)", "download or export it again")
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise _not_onnx(data, name) from None
    if not proto.HasField("graph") or not proto.graph.output:
        raise _not_onnx(data, name)
    return proto


def _not_onnx(data: bytes, name: str) -> ModelError:
    for start, hint in _STARTS:
        if data.startswith(start):
            return ModelError(f"{name} is not an ONNX model", hint)
    if data[:1] == b"\x08":  # the key of ir_version, with which ONNX files begin
        return ModelError(f"{name} is truncated or damaged", "download or export it again")
    return ModelError(f"{name} is not an ONNX model", _NOT_ONNX_HINT)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
