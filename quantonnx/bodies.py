"""The bodies of If, Loop and Scan as models of their own, and back into the operators that run them.

What a body reads from outside becomes an input of its model, or a constant where it is one: so that all that works on
a model (patterns, placement, calibration) works on a body. Names stay unique over the whole file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto

from quantonnx.element_types import ElementTypes
from quantonnx.errors import ModelError
from quantonnx.exporting import export_value, required_ir_version
from quantonnx.importing import STANDARD_DOMAINS, Extras, bodies, free_name, outer_reads
from quantonnx.model import Model
from quantonnx.ordering import body_graphs
from quantonnx.weights import to_onnx_dtype

_KNOWN = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
_SCAN_OPSET = 9
_NOTHING = Extras()


@dataclass(frozen=True)
class Body:
    """One body of an operator: its model, or the reason why it is left as it is."""

    owner: str
    attribute: str
    model: Model | None
    reason: str = ""

    @property
    def name(self) -> str:
        """What the body is called: by the operator that runs it, and its place there."""
        return f"{self.owner}/{self.attribute}"


def open_bodies(model: Model) -> Iterator[Body]:
    """Yields the bodies of a model's own operators, in the order of the graph; those inside of bodies are theirs."""
    held = [(node, *found) for node in model.graph.nodes for found in body_graphs(node)]
    if not held:
        return
    opener = _Opener(model)
    for node, attribute, graph in held:
        try:
            yield Body(node.name, attribute, opener.open(node, attribute, graph))
        except ModelError as error:
            yield Body(node.name, attribute, None, error.message)


def owner_of(model: Model, name: str) -> tuple[gs.Node, str]:
    """Returns the operator that has the body called `name`, and the attribute in which it is."""
    owner, attribute = name.rsplit("/", 1)
    return next(node for node in model.graph.nodes if node.name == owner), attribute


def put_back(model: Model, done: Iterable[tuple[str, Model]], taken: frozenset[str] = frozenset()) -> None:
    """Makes each model the body of its name: what it reads from `model` it reads from there again.

    `taken` are names of the graphs around `model`; a new value of a body that is called like one gets another name.
    """
    owners, around = {node.name: node for node in model.graph.nodes}, model.tensors()
    for name, body in done:
        owner, attribute = name.rsplit("/", 1)
        node = owners[owner]
        graph = _graph_of(body, {info.name for info in node.attrs[attribute].g.input}, around, taken)
        node.attrs[attribute] = AttributeProto(name=attribute, type=AttributeProto.GRAPH, g=graph)
        _import_domains(model, body)
    model.refresh_captured()


def _graph_of(done: Model, formal: set[str], around: dict[str, gs.Tensor], taken: frozenset[str]) -> GraphProto:
    """The graph of a body whose own inputs are called `formal`, without what it reads from the graph around."""
    own = [value for value in done.tensors().values() if value.name not in formal and not _is_from(around, value)]
    captured = {value.name for value in done.graph.inputs} - formal
    _rename([value for value in own if value.name not in captured | done.captured], {*around, *taken})
    graph = done.to_graph(without=around.keys() - {value.name for value in own})
    inputs = [info for info in graph.input if info.name in formal]
    del graph.input[:]
    graph.input.extend(inputs)
    return graph


def _import_domains(model: Model, done: Model) -> None:
    """Lets the file import the domains of operators that are new in a body."""
    known = {entry.domain for entry in model.graph.import_domains or ()}
    used = {node.domain for node in done.graph.nodes if node.domain}
    used |= {entry.domain for entry in done.graph.import_domains or ()} - known
    new = [OperatorSetIdProto(domain=domain, version=1) for domain in sorted(used - known - set(STANDARD_DOMAINS))]
    model.graph.import_domains = [*(model.graph.import_domains or ()), *new]


def names_of(model: Model) -> frozenset[str]:
    """Returns the names of all nodes and values of a model, bodies included."""
    return own_names(model) | names_inside(model)


def own_names(model: Model) -> frozenset[str]:
    """Returns the names of a model's own nodes and values."""
    return frozenset((*model.tensors(), *(node.name for node in model.graph.nodes)))


def names_inside(model: Model) -> frozenset[str]:
    """Returns the names of all nodes and values in the bodies of a model, however deep."""
    return frozenset(name for node in model.graph.nodes for _, graph in body_graphs(node) for name in _names(graph))


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (item.name for item in (*graph.input, *graph.initializer))
    yield from (item.values.name for item in graph.sparse_initializer)
    for node in graph.node:
        yield from (node.name, *node.output)
        for attribute in node.attribute:
            for inner in bodies(attribute):
                yield from _names(inner)


def _is_from(around: dict[str, gs.Tensor], value: gs.Tensor) -> bool:
    """True for a constant that is one of the graph around, untouched."""
    outer = around.get(value.name)
    constants = isinstance(value, gs.Constant) and isinstance(outer, gs.Constant)
    return constants and outer is not None and value._values is outer._values


def _rename(values: list[gs.Tensor], taken: set[str]) -> None:
    known = taken | {value.name for value in values}
    for value in values:
        if value.name in taken:
            value.name = free_name(value.name, known)
            known.add(value.name)


class _Opener:
    def __init__(self, model: Model) -> None:
        self._model, self._types, self._around = model, ElementTypes(model), model.tensors()
        self._taken = {node.name for node in model.graph.nodes}
        self._reserved = names_of(model) | model.reserved

    def open(self, node: gs.Node, attribute: str, graph: GraphProto) -> Model:
        """Returns the model of a body; ModelError says why there is none."""
        model, types = self._model, self._types
        if node.domain or attribute not in _KNOWN.get(node.op, ()):
            raise ModelError(f"how {node.op} {node.name!r} runs its body is not known")
        if node.op == "Scan" and model.opset < _SCAN_OPSET:
            raise ModelError(f"Scan {node.name!r} is that of an opset before {_SCAN_OPSET}")
        proto = ModelProto(ir_version=max(model.ir_version, required_ir_version(model.opset)))
        proto.opset_import.extend(model.graph.import_domains or ())
        proto.graph.CopyFrom(graph)
        _name_nodes(proto.graph, f"{node.name}/{attribute}", self._taken)
        for info, value in zip(proto.graph.input, _fed(node), strict=False):
            _complete(info, value, types)
        read = [self._around[name] for name in sorted(outer_reads(graph)) if name in self._around]
        weights = {value.name: value for value in read if isinstance(value, gs.Constant)}
        proto.graph.input.extend(_captured(value, types) for value in read if value.name not in weights)
        for name, value in weights.items():
            proto.graph.initializer.add(name=name, dims=value.shape, data_type=to_onnx_dtype(value.dtype))
        return Model.inner(proto, weights, model, self._reserved)


def _name_nodes(graph: GraphProto, scope: str, taken: set[str]) -> None:
    """Gives every node that has no name, or one that is taken elsewhere in the file, one of its own."""
    for position, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = free_name(f"{scope}/{node.op_type}_{position}", taken)
        taken.add(node.name)


def _fed(node: gs.Node) -> list[gs.Tensor | str]:
    """What a body's inputs get: values of the graph around, or the types of what the operator itself gives."""
    return ["int64", "bool", *node.inputs[2:]] if node.op == "Loop" else list(node.inputs)


def _complete(info: ValueInfoProto, value: gs.Tensor | str, types: ElementTypes) -> None:
    """Writes the element type of a body's input where the file leaves it out."""
    if info.type.WhichOneof("value") in (None, "tensor_type") and not info.type.tensor_type.elem_type:
        kind = value if isinstance(value, str) else types.of(value)
        if kind is not None:
            info.type.tensor_type.elem_type = to_onnx_dtype(kind)
    if not info.type.tensor_type.elem_type:
        raise ModelError(f"the body's input {info.name!r} is not known to be a tensor")


def _captured(value: gs.Tensor, types: ElementTypes) -> ValueInfoProto:
    kind = types.of(value) if value.type == "tensor_type" else None
    if kind is None:
        raise ModelError(f"{value.name!r}, which the body reads from outside, is not known to be a tensor")
    return export_value(gs.Variable(value.name, kind, value.shape), _NOTHING)
