"""Parts of a quantized model beside the float one, in one graph: they read its values and share what is equal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto

from quantonnx.editing import Rewriter
from quantonnx.inspecting import MOVING
from quantonnx.model import Model
from quantonnx.ordering import body_reads, has_body
from quantonnx.weights import to_onnx_dtype

_RECTIFIERS = frozenset({"Clip", "Relu"})
_LARGEST_COMPARED = 1 << 20
"""Bytes of the constants that are compared number by number to find out whether both models have the same."""


@dataclass(frozen=True)
class Slice:
    """A part of the quantized model that gives the value `seen`: its nodes in an order that runs, and the float values
    that it reads, by the identity of what they are in the quantized model.

    `aliases` are values of the quantized model, by the identity of those in whose place they stand.
    """

    seen: gs.Tensor
    nodes: tuple[gs.Node, ...]
    bound: Mapping[int, gs.Tensor]
    aliases: Mapping[int, gs.Tensor] = field(default_factory=dict)

    def with_alias(self, value: gs.Tensor, other: gs.Tensor) -> Slice:
        """Returns the same with another value of the quantized model in the place of one."""
        return replace(self, aliases={**self.aliases, id(value): other})

    def with_bound(self, value: gs.Tensor, exact: gs.Tensor) -> Slice:
        """Returns the same with a value of the float model in the place of one."""
        return replace(self, bound={**self.bound, id(value): exact})


class Grafter:
    """Copies nodes of `quantized` into `base`, a float model with the same names that is changed in place.

    A copy that would read what a node of `base` reads is that node, and two copies that would read the same are one:
    so pairs on float values, and quantized weights, stand once for all parts.
    """

    def __init__(self, base: Model, quantized: Model) -> None:
        self.base, self.quantized = base, quantized
        self.editor = Rewriter(base)
        self.nodes = {node.name: node for node in base.graph.nodes}
        self.tensors = base.tensors()
        self.outputs = list(base.graph.outputs)
        self._quantized_nodes = {node.name for node in quantized.graph.nodes}
        self.quantized_tensors = quantized.tensors()
        self._own = list(base.graph.nodes)
        self._places = {id(node): place for place, node in enumerate(quantized.graph.nodes)}
        self._made: dict[tuple[object, ...], list[gs.Tensor]] = {}
        self._constants: dict[int, gs.Constant] = {}

    def original(self, node: gs.Node) -> gs.Node | None:
        """Returns the float model's node of that name and operator; None for what quantization brought."""
        found = self.nodes.get(node.name)
        return found if found is not None and (found.op, found.domain) == (node.op, node.domain) else None

    def float_value(self, value: gs.Tensor) -> gs.Tensor | None:
        """Returns the float model's value for one of the quantized model; None for what quantization brought.

        Where the quantized model has no Relu or Clip because a pair does its work, it is the value behind that.
        """
        node = value.inputs[0] if value.inputs else None
        twin = None if node is None else self.original(node)
        if node is None or twin is None:
            return self.tensors.get(value.name)
        found = twin.outputs[_place(node, value)]
        readers = found.outputs
        dropped = len(readers) == 1 and readers[0].op in _RECTIFIERS and readers[0].name not in self._quantized_nodes
        return readers[0].outputs[0] if dropped else found

    def slice(self, nodes: Collection[str], seen: gs.Tensor) -> Slice:
        """Returns the part of the quantized model from float values to `seen`: the named nodes, the pairs at their
        inputs and outputs, and what only moves data between the two."""
        inside: dict[int, gs.Node] = {}
        bound: dict[int, gs.Tensor] = {}
        waiting = [seen]
        while waiting:
            value = waiting.pop()
            node = value.inputs[0] if value.inputs else None
            if isinstance(value, gs.Constant) or not value.name or (node is not None and id(node) in inside):
                continue
            twin = None if node is None else self.original(node)
            if node is None:
                bound[id(value)] = self.tensors[value.name]
            elif twin is None or node.name in nodes or _moves_codes(node):
                inside[id(node)] = node
                waiting += node.inputs
            else:
                bound[id(value)] = self.float_value(value)
        return Slice(seen, tuple(sorted(inside.values(), key=lambda node: self._places[id(node)])), bound)

    def side(self, part: Slice, prefix: str) -> gs.Tensor:
        """Copies a part of the quantized model so that it reads float values; returns what it gives."""
        return self.copy(part.nodes, part.bound, prefix, part.aliases)[id(part.seen)]

    def later(self, value: gs.Tensor, other: gs.Tensor, prefix: str) -> dict[str, gs.Tensor]:
        """Copies all float nodes that need a value, so that they read another one; returns changed graph outputs."""
        values = {id(value): other}
        for node in list(_that_need(self._own, value)):
            renamed = self._captured(node, values, self.base)
            inputs = [values.get(id(read), read) for read in node.inputs]
            copies = self._grafted(node, inputs, renamed, prefix)
            values.update((id(old), new) for old, new in zip(node.outputs, copies, strict=True))
        return {out.name: values[id(out)] for out in self.outputs if id(out) in values}

    def whole(self, prefix: str) -> dict[int, gs.Tensor]:
        """Copies the whole quantized model; returns its values in `base` by identity."""
        bound: dict[int, gs.Tensor] = {id(value): self.tensors[value.name] for value in self.quantized.graph.inputs}
        return self.copy(self.quantized.graph.nodes, bound, prefix)

    def copy(
        self,
        nodes: Iterable[gs.Node],
        bound: Mapping[int, gs.Tensor],
        prefix: str,
        aliases: Mapping[int, gs.Tensor] = MappingProxyType({}),
    ) -> dict[int, gs.Tensor]:
        """Copies nodes, which must be in an order that runs; returns all values by the identity of what they copy.

        Values in `bound` are known, those in `aliases` are others of the same model; what gives them is not needed.
        """
        values = dict(bound)
        for node in nodes:
            inputs = [self._value(value, values) for value in node.inputs]
            for value, copied in zip(node.outputs, self._copied(node, inputs, values, prefix), strict=True):
                values.setdefault(id(value), copied)
            for value in node.outputs:
                if id(value) in aliases:
                    values[id(value)] = self._value(aliases[id(value)], values)
        return values

    def _copied(
        self, node: gs.Node, inputs: list[gs.Tensor], values: Mapping[int, gs.Tensor], prefix: str
    ) -> list[gs.Tensor]:
        renamed = self._captured(node, values, self.quantized)
        twin = self.original(node)
        if twin is not None and not renamed and _same_inputs(inputs, twin.inputs):
            return list(twin.outputs)
        key = (id(node), *(id(read) if read.name else 0 for read in inputs), *renamed.values())
        if key not in self._made:
            self._made[key] = self._grafted(node, inputs, renamed, prefix)
        return self._made[key]

    def _grafted(
        self, node: gs.Node, inputs: list[gs.Tensor], renamed: Mapping[str, str], prefix: str
    ) -> list[gs.Tensor]:
        outputs: list[gs.Tensor] = list(self.editor.graft(node, inputs, prefix))
        if renamed:
            given = next(value for value in outputs if value.name).inputs[0]
            for name, held in node.attrs.items():
                if isinstance(held, AttributeProto):
                    given.attrs[name] = _renamed(held, renamed)
        return outputs

    def _value(self, value: gs.Tensor, values: Mapping[int, gs.Tensor]) -> gs.Tensor:
        if id(value) in values:
            return values[id(value)]
        if isinstance(value, gs.Constant):
            return self._constant(value)
        return gs.Variable.empty()

    def _constant(self, value: gs.Constant) -> gs.Constant:
        if id(value) not in self._constants:
            known = self.tensors.get(value.name)
            if isinstance(known, gs.Constant) and _same_numbers(self.base, known, value):
                self._constants[id(value)] = known
            else:
                compute = partial(self.quantized.array, value)
                made = self.editor.deferred(value.name, value.shape, to_onnx_dtype(value.dtype), compute)
                self._constants[id(value)] = made
        return self._constants[id(value)]

    def _captured(self, node: gs.Node, values: Mapping[int, gs.Tensor], model: Model) -> dict[str, str]:
        """The values that the bodies of a node of `model` read, as far as they have other names here."""
        known = [model.find(name) for name in sorted(body_reads(node))] if has_body(node) else []
        found = {value.name: values.get(id(value), value).name for value in known}
        return {name: new for name, new in found.items() if new != name}


def _that_need(nodes: Iterable[gs.Node], value: gs.Tensor) -> Iterator[gs.Node]:
    """Yields the nodes that need a value, however indirectly, of nodes in an order that runs."""
    needed = {value.name}
    for node in nodes:
        if any(read.name in needed for read in node.inputs) or (has_body(node) and needed & body_reads(node)):
            needed |= {output.name for output in node.outputs if output.name}
            yield node


def _moves_codes(node: gs.Node) -> bool:
    """True where a pair stands before operators that only move data, the last of which is `node`."""
    while node.op in MOVING and not node.domain and node.inputs[0].inputs:
        node = node.inputs[0].inputs[0]
        if node.op == "DequantizeLinear":
            return True
    return False


def _place(node: gs.Node, value: gs.Tensor) -> int:
    return next(index for index, output in enumerate(node.outputs) if output is value)


def _same_inputs(inputs: list[gs.Tensor], others: list[gs.Tensor]) -> bool:
    return len(inputs) == len(others) and all(
        read is other or not (read.name or other.name) for read, other in zip(inputs, others, strict=True)
    )


def _same_numbers(model: Model, first: gs.Constant, second: gs.Constant) -> bool:
    if first._values is second._values:
        return True
    if tuple(first.shape) != tuple(second.shape) or first.dtype != second.dtype:
        return False
    size = first._values.nbytes
    return size <= _LARGEST_COMPARED and np.array_equal(model.array(first), model.array(second))


def _renamed(held: AttributeProto, names: Mapping[str, str]) -> Any:
    copied = AttributeProto()
    copied.CopyFrom(held)
    for body in (copied.g, *copied.graphs):
        _rename_reads(body, names)
    return copied


def _rename_reads(body: GraphProto, names: Mapping[str, str]) -> None:
    given = {item.name for item in (*body.input, *body.initializer)} | {name for n in body.node for name in n.output}
    outer = {name: new for name, new in names.items() if name not in given}
    for node in body.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename_reads(inner, outer)
