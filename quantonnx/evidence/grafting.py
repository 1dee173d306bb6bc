"""Parts of a quantized model beside the float one, in one graph: they read its values and share what is equal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto

from quantonnx.editing import Rewriter
from quantonnx.inspecting import MOVING
from quantonnx.model import Model
from quantonnx.ordering import body_reads, has_body
from quantonnx.weights import to_onnx_dtype

_LARGEST_COMPARED = 1 << 20
"""Bytes of the constants that are compared number by number to find out whether both models have the same."""


class Grafter:
    """Copies nodes of `quantized` into `base`, a float model with the same names that is changed in place.

    A copy whose inputs are what a node of `base` reads already is that node; nodes that read only values of `base` or
    constants, such as pairs on its values, are copied once for all parts.
    """

    def __init__(self, base: Model, quantized: Model) -> None:
        self.base, self.quantized = base, quantized
        self.editor = Rewriter(base)
        self.nodes = {node.name: node for node in base.graph.nodes}
        self.tensors = base.tensors()
        self._native = {id(value) for value in self.tensors.values()}
        self._shared: dict[int, list[gs.Tensor]] = {}
        self._constants: dict[int, gs.Constant] = {}

    def original(self, node: gs.Node) -> gs.Node | None:
        """Returns the float model's node of that name and operator; None for what quantization brought."""
        found = self.nodes.get(node.name)
        return found if found is not None and (found.op, found.domain) == (node.op, node.domain) else None

    def side(self, nodes: Collection[str], seen: gs.Tensor, prefix: str) -> gs.Tensor | None:
        """Returns what the named nodes give as `seen`, a value of the quantized model, from float values.

        They keep the pairs at their inputs and outputs and their constants; None where nothing of it differs from the
        float model.
        """
        inside, bound = self._slice(nodes, seen)
        if not any(self.original(node) is None for node in inside):
            return None
        order = [node for node in self.quantized.graph.nodes if id(node) in {id(found) for found in inside}]
        return self.copy(order, bound, prefix)[id(seen)]

    def whole(self, prefix: str) -> dict[int, gs.Tensor]:
        """Copies the whole quantized model; returns its values in `base` by identity."""
        bound: dict[int, gs.Tensor] = {id(value): self.tensors[value.name] for value in self.quantized.graph.inputs}
        return self.copy(self.quantized.graph.nodes, bound, prefix)

    def copy(self, nodes: Iterable[gs.Node], bound: Mapping[int, gs.Tensor], prefix: str) -> dict[int, gs.Tensor]:
        """Copies nodes, which must be in an order that runs; returns all values by the identity of what they copy."""
        values = dict(bound)
        for node in nodes:
            inputs = [self._value(value, values) for value in node.inputs]
            for value, copied in zip(node.outputs, self._copied(node, inputs, values, prefix), strict=True):
                values[id(value)] = copied
        return values

    def _copied(
        self, node: gs.Node, inputs: list[gs.Tensor], values: Mapping[int, gs.Tensor], prefix: str
    ) -> list[gs.Tensor]:
        renamed = self._captured(node, values)
        twin = self.original(node)
        if twin is not None and not renamed and _same_inputs(inputs, twin.inputs):
            return list(twin.outputs)
        if renamed or not all(isinstance(read, gs.Constant) or id(read) in self._native for read in inputs):
            return self._grafted(node, inputs, renamed, prefix)
        if id(node) not in self._shared:
            self._shared[id(node)] = self._grafted(node, inputs, {}, "shared/")
            if twin is None:  # what pairs give from float values is a float value again: rows of pairs are shared too
                self._native |= {id(value) for value in self._shared[id(node)]}
        return self._shared[id(node)]

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

    def _captured(self, node: gs.Node, values: Mapping[int, gs.Tensor]) -> dict[str, str]:
        """The values that the bodies of a node read, as far as they have other names here."""
        names = body_reads(node) if has_body(node) else set()
        known = {name: self.quantized.find(name) for name in sorted(names)}
        found = {name: self._value(value, values).name for name, value in known.items()}
        return {name: new for name, new in found.items() if new and new != name}

    def _slice(self, nodes: Collection[str], seen: gs.Tensor) -> tuple[list[gs.Node], dict[int, gs.Tensor]]:
        """The quantized model's nodes from float values to `seen`, and those values by the identity of what they are
        in the quantized model."""
        inside: dict[int, gs.Node] = {}
        bound: dict[int, gs.Tensor] = {}
        waiting = [seen]
        while waiting:
            value = waiting.pop()
            node = value.inputs[0] if value.inputs else None
            if isinstance(value, gs.Constant) or not value.name or (node is not None and id(node) in inside):
                continue
            twin = self.original(node) if node is not None else None
            if node is None:
                bound[id(value)] = self.tensors[value.name]
            elif twin is None or node.name in nodes or self._moves_codes(node):
                inside[id(node)] = node
                waiting += node.inputs
            else:
                bound[id(value)] = twin.outputs[_place(node, value)]
        return list(inside.values()), bound

    def _moves_codes(self, node: gs.Node) -> bool:
        """True where a pair stands before operators that only move data, the last of which is `node`."""
        while node.op in MOVING and not node.domain and node.inputs[0].inputs:
            node = node.inputs[0].inputs[0]
            if node.op == "DequantizeLinear":
                return True
        return False


def reads_later(nodes: Iterable[gs.Node], value: gs.Tensor) -> Iterator[gs.Node]:
    """Yields the nodes that need a value, however indirectly, of nodes in an order that runs."""
    needed = {value.name}
    for node in nodes:
        if any(read.name in needed for read in node.inputs) or (has_body(node) and needed & body_reads(node)):
            needed |= {output.name for output in node.outputs if output.name}
            yield node


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
