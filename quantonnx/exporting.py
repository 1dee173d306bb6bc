"""From a graph to protobuf: what the graph carries, and what was set aside when it was read.

The exporter of onnx-graphsurgeon gives weights under 8 bits the wrong size and float8 another type, and stops at empty
lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import onnx_graphsurgeon as gs
from onnx import (
    IR_VERSION,
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    StringStringEntryProto,
    TensorProto,
    ValueInfoProto,
    defs,
    helper,
)

from quantonnx.errors import ModelError
from quantonnx.importing import STANDARD_DOMAINS, EmptyList, Extras, value_type
from quantonnx.reading import copy_fields
from quantonnx.weights import payload, to_onnx_dtype

EMBEDDED_LIMIT = 1_800_000_000  # bytes; a protobuf ends at 2^31 - 1, and tools need some of it for themselves
EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the model's file

_KNOWN_IR_VERSION = 10  # every supported ONNX Runtime reads it


@dataclass(frozen=True)
class Document:
    """A model in the parts that are written one after the other."""

    model: ModelProto  # without the graph
    graph: GraphProto  # without initializers
    constants: tuple[gs.Constant, ...]

    @property
    def size(self) -> int:
        """About how many bytes one file takes."""
        return int(self.graph.ByteSize()) + sum(stored_bytes(constant) for constant in self.constants)

    def goes_outside(self, asked: bool) -> bool:
        """True when weights belong in a file of their own: because of their size, or when asked and there are any."""
        large = any(stored_bytes(constant) >= EXTERNAL_FROM for constant in self.constants)
        return large and (asked or self.size > EMBEDDED_LIMIT)


def stored_bytes(constant: gs.Constant) -> int:
    """Returns about how many bytes a constant takes in a file, without reading it."""
    return int(constant._values.nbytes)


def document(graph: gs.Graph, extras: Extras, metadata: dict[str, str], constants: Sequence[gs.Constant]) -> Document:
    """Returns the parts of the file; two values of one name, or one that nothing gives, are a ModelError."""
    _check_names(graph, constants)
    return Document(_model(graph, extras, metadata, constants), _graph(graph, extras, constants), tuple(constants))


def export_node(node: gs.Node, extras: Extras) -> NodeProto:
    """Returns a node with everything that it had in its file."""
    proto = NodeProto(
        input=[tensor.name for tensor in node.inputs],
        output=[tensor.name for tensor in node.outputs],
        name=node.name,
        op_type=node.op,
    )
    if node.domain:
        proto.domain = node.domain
    for name, value in node.attrs.items():
        proto.attribute.append(_attribute(node, name, value))
    if rest := extras.nodes.get(node.name):
        proto.MergeFrom(rest)
    return proto


def export_value(tensor: gs.Tensor, extras: Extras) -> ValueInfoProto:
    """Returns the type of a value: the file's own words where they still hold."""
    known = extras.values.get(tensor.name)
    kind = getattr(tensor, "type", "tensor_type")
    if known is not None and (kind != "tensor_type" or value_type(known) == (tensor.dtype, _shape(tensor), kind)):
        return known
    info = ValueInfoProto(name=tensor.name)
    if tensor.dtype is not None:
        info.type.tensor_type.elem_type = to_onnx_dtype(tensor.dtype)
        _set_shape(info, _shape(tensor))
    if known is not None:
        copy_fields(known, info, without={"name", "type"})
    return info


@cache
def runtime_ir_version() -> int:
    """Returns the newest IR version that the installed ONNX Runtime reads, found by trying."""
    import onnxruntime  # costs 0.1 s, and only models of a newer IR than 10 need to know

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    version = int(IR_VERSION)
    while version > _KNOWN_IR_VERSION:
        with suppress(Exception):
            onnxruntime.InferenceSession(_probe(version), options, providers=["CPUExecutionProvider"])
            break
        version -= 1
    return version


def required_ir_version(opset: int) -> int:
    """Returns the oldest version of the file format that may hold this version of the standard operators."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True))


def is_plain(constant: gs.Constant) -> bool:
    """True for numbers of numpy's own types."""
    return np.dtype(constant.dtype).kind in "biuf" and np.dtype(constant.dtype).num < 256


def _check_names(graph: gs.Graph, constants: Sequence[gs.Constant]) -> None:
    given: dict[str, int] = {}
    outputs = (tensor for node in graph.nodes for tensor in node.outputs if tensor.name)
    for tensor in (*graph.inputs, *constants, *outputs):
        if given.setdefault(tensor.name, id(tensor)) != id(tensor):
            raise ModelError(f"the value {tensor.name!r} is given more than once", "give every value its own name")
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.name and tensor.name not in given:
                raise ModelError(f"node {node.name!r} reads {tensor.name!r}, which nothing gives", "keep its producer")


def _model(graph: gs.Graph, extras: Extras, metadata: dict[str, str], constants: Sequence[gs.Constant]) -> ModelProto:
    model = ModelProto()
    copy_fields(extras.model, model, without={"metadata_props", "producer_name", "producer_version", "ir_version"})
    model.ir_version = _ir_version(graph, extras, constants)
    if graph.producer_name:
        model.producer_name = graph.producer_name
    if graph.producer_version:
        model.producer_version = graph.producer_version
    model.metadata_props.extend(StringStringEntryProto(key=k, value=v) for k, v in metadata.items())
    model.opset_import.extend(_opsets(graph))
    return model


def _ir_version(graph: gs.Graph, extras: Extras, constants: Sequence[gs.Constant]) -> int:
    version = int(graph.ir_version or _KNOWN_IR_VERSION)
    if version < 4:
        return version if _all_are_inputs(constants, extras) else 4  # until IR 4 every initializer is an input
    return version if version <= _KNOWN_IR_VERSION else min(version, runtime_ir_version())


def _all_are_inputs(constants: Sequence[gs.Constant], extras: Extras) -> bool:
    return {constant.name for constant in constants} <= set(extras.inputs)


def _opsets(graph: gs.Graph) -> list[OperatorSetIdProto]:
    entries = [OperatorSetIdProto.FromString(entry.SerializeToString()) for entry in graph.import_domains or ()]
    for entry in entries:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = graph.opset
    known = {"" if entry.domain in STANDARD_DOMAINS else entry.domain for entry in entries}
    for domain in sorted({node.domain or "" for node in graph.nodes} - known):
        entries.append(OperatorSetIdProto(domain=domain, version=1 if domain else graph.opset))
    return entries


def _graph(graph: gs.Graph, extras: Extras, constants: Sequence[gs.Constant]) -> GraphProto:
    proto = GraphProto(name=graph.name)
    copy_fields(extras.graph, proto, without={"name", "doc_string"})
    if graph.doc_string:
        proto.doc_string = graph.doc_string
    proto.node.extend(export_node(node, extras) for node in graph.nodes)
    proto.input.extend(export_value(tensor, extras) for tensor in _inputs(graph, extras, constants))
    proto.output.extend(export_value(tensor, extras) for tensor in graph.outputs)
    proto.value_info.extend(_value_infos(graph, extras, constants))
    return proto


def _inputs(graph: gs.Graph, extras: Extras, constants: Sequence[gs.Constant]) -> list[gs.Tensor]:
    if int(graph.ir_version or 4) < 4 and not _all_are_inputs(constants, extras):
        return list(graph.inputs)
    place = {name: index for index, name in enumerate(extras.inputs)}
    replaceable = [constant for constant in constants if constant.name in place]
    if not replaceable:
        return list(graph.inputs)
    return sorted([*graph.inputs, *replaceable], key=lambda tensor: place.get(tensor.name, len(place)))


def _value_infos(graph: gs.Graph, extras: Extras, constants: Sequence[gs.Constant]) -> Iterator[ValueInfoProto]:
    named = {tensor.name for tensor in graph.outputs} | set(extras.inputs)
    for constant in constants:
        if constant.name in extras.values and constant.name not in named:
            yield export_value(constant, extras)
    for node in graph.nodes:
        for tensor in node.outputs:
            typed = tensor.dtype is not None or tensor.name in extras.values
            if typed and tensor.name and tensor.name not in named:
                yield export_value(tensor, extras)


def _shape(tensor: gs.Tensor) -> list[int | str | None] | None:
    return None if tensor.shape is None else list(tensor.shape)


def _set_shape(info: ValueInfoProto, shape: list[int | str | None] | None) -> None:
    if shape is None:
        return
    proto = info.type.tensor_type.shape
    proto.SetInParent()
    for size in shape:
        dim = proto.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None and size >= 0:
            dim.dim_value = int(size)


def _attribute(node: gs.Node, name: str, value: Any) -> AttributeProto:
    if isinstance(value, AttributeProto):
        return value
    kind = type(value)
    if kind is int:
        return AttributeProto(name=name, type=AttributeProto.INT, i=value)
    if kind is float:
        return AttributeProto(name=name, type=AttributeProto.FLOAT, f=value)
    if kind is str:
        return AttributeProto(name=name, type=AttributeProto.STRING, s=value.encode())
    return _long_attribute(node, name, value)


def _long_attribute(node: gs.Node, name: str, value: Any) -> AttributeProto:
    if isinstance(value, gs.Constant):
        return AttributeProto(name=name, type=AttributeProto.TENSOR, t=_tensor(value))
    if isinstance(value, type | np.dtype):
        value = to_onnx_dtype(value)
    if isinstance(value, list | tuple) and not value:
        return _empty_attribute(name, value.kind if isinstance(value, EmptyList) else _declared_kind(node, name))
    try:
        return helper.make_attribute(name, value)
    except (TypeError, ValueError) as error:
        raise ModelError(f"attribute {name!r} of node {node.name!r} cannot be written: {error}") from error


def _empty_attribute(name: str, kind: int) -> AttributeProto:
    attribute = AttributeProto(name=name)
    attribute.type = cast("AttributeProto.AttributeType", kind)
    return attribute


def _declared_kind(node: gs.Node, name: str) -> int:
    with suppress(Exception):  # an operator that onnx does not know
        kind = defs.get_schema(node.op, domain=node.domain or "").attributes[name].type
        return int(AttributeProto.AttributeType.Value(kind.name))  # type: ignore[attr-defined]  # onnx's stub is wrong
    return int(AttributeProto.INTS)


def _tensor(constant: gs.Constant) -> TensorProto:
    part = payload(constant)
    if part.size:
        part.header.raw_data = b"".join(part.checked())
    return part.header


def _probe(ir_version: int) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result])
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)
    return bytes(model.SerializeToString())
