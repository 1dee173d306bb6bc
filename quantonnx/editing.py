"""Edits on a graph: the narrow interface that `Pattern.rewrite` gets, all by identity and in time linear in the edit.

onnx-graphsurgeon compares nodes by content and removes list items by equality, which is quadratic and can hit a twin;
everything here therefore unlinks by identity. Removed nodes stay in `graph.nodes` until `Model.sort` drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.bodies import names_of
from quantonnx.errors import PatternError
from quantonnx.model import constant, deferred

if TYPE_CHECKING:
    from quantonnx.model import Model


class Rewriter:
    """Changes one model in place and remembers which nodes an edit touched."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.touched: list[gs.Node] = []
        self._outputs = {id(output) for output in model.graph.outputs}
        self._names = {*names_of(model), *model.reserved}

    def array(self, value: gs.Constant) -> np.ndarray[Any, Any]:
        """Returns the values of a constant."""
        return self.model.array(value)

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> gs.Constant:
        """Returns a new constant, named `name` or, when that is taken, `name_1` and so on."""
        return constant(self._unique(name), values)

    def deferred(
        self, name: str, shape: Sequence[int], onnx_dtype: int, compute: Callable[[], np.ndarray[Any, Any]]
    ) -> gs.Constant:
        """Returns a new constant whose values are computed when they are written, and not held."""
        return deferred(self._unique(name), tuple(shape), onnx_dtype, compute)

    def insert(
        self,
        op: str,
        inputs: Iterable[gs.Tensor],
        name: str,
        attrs: dict[str, Any] | None = None,
        domain: str = "",
    ) -> gs.Variable:
        """Adds a node called `name` and returns its only output; the order of nodes is mended by `Model.sort`."""
        inputs = list(inputs)
        output = gs.Variable(self._unique(f"{name}_output"), dtype=inputs[0].dtype if inputs else None)
        node = gs.Node(op, self._unique(name), attrs or {}, inputs, [output], domain=domain or None)
        list.append(self.model.graph.nodes, node)
        self.touched.append(node)
        return output

    def add_output(self, node: gs.Node, name: str) -> gs.Variable:
        """Returns one more output of `node`, called `name`."""
        output = gs.Variable(self._unique(name))
        list.append(node.outputs, output)
        list.append(output.inputs, node)
        return output

    def graft(self, node: gs.Node, inputs: Iterable[gs.Tensor], prefix: str) -> list[gs.Variable]:
        """Adds a copy of a node, of this graph or of another, that reads `inputs`; returns its outputs.

        Names get the prefix; types that were declared are kept, shapes are not.
        """
        outputs = [
            gs.Variable(self._unique(f"{prefix}{value.name}"), dtype=value.dtype) if value.name else gs.Variable.empty()
            for value in node.outputs
        ]
        name, domain = self._unique(f"{prefix}{node.name}"), node.domain
        twin = gs.Node(node.op, name, dict(node.attrs), list(inputs), outputs, domain=domain)
        list.append(self.model.graph.nodes, twin)
        self.touched.append(twin)
        return outputs

    def set_input(self, node: gs.Node, index: int, value: gs.Tensor) -> None:
        """Makes input `index` of `node` read `value`."""
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        _unlink_once(node.inputs[index].outputs, node)
        list.__setitem__(node.inputs, index, value)
        list.append(value.outputs, node)
        self.touched.append(node)

    def drop_inputs(self, node: gs.Node, first: int) -> None:
        """Takes away the inputs of `node` from position `first` on."""
        for value in node.inputs[first:]:
            _unlink_once(value.outputs, node)
        list.__delitem__(node.inputs, slice(first, None))
        self.touched.append(node)

    def take_output(self, node: gs.Node, other: gs.Node) -> None:
        """Makes `node` produce what `other` gave, name and all; `other` is removed."""
        value = other.outputs[0]
        self.remove(other)
        for old in node.outputs:
            _unlink_once(old.inputs, node)
        list.__setitem__(node.outputs, slice(None), [value])
        list.append(value.inputs, node)
        self.touched += [node, *value.outputs]

    def bypass(self, node: gs.Node, value: gs.Tensor) -> None:
        """Removes `node`; whoever read its first output reads `value`. The names of graph outputs are kept."""
        result = node.outputs[0]
        if self.is_public(result):
            self._give_name(node, result, value)
            return
        readers = list(result.outputs)
        self.remove(node)
        for reader in readers:
            for index, read in enumerate(reader.inputs):
                if read is result:
                    self.set_input(reader, index, value)

    def remove(self, node: gs.Node) -> None:
        """Detaches a node from all that it reads and gives."""
        for value in node.inputs:
            _unlink_once(value.outputs, node)
        for value in node.outputs:
            _unlink_once(value.inputs, node)
        list.clear(node.inputs)
        list.clear(node.outputs)

    def is_public(self, value: gs.Tensor) -> bool:
        """True where the name must stay: a graph output, or a value that an If or Loop body reads."""
        return id(value) in self._outputs or value.name in self.model.captured

    def can_bypass(self, node: gs.Node, value: gs.Tensor) -> bool:
        """True when `bypass(node, value)` keeps every public name."""
        if not self.is_public(node.outputs[0]):
            return True
        return bool(value.inputs) and not self.is_public(value)

    def _give_name(self, node: gs.Node, result: gs.Tensor, value: gs.Tensor) -> None:
        if not self.can_bypass(node, value):
            raise PatternError(f"{node.name!r} gives the public value {result.name!r}", "ask can_bypass() first")
        producer = value.inputs[0]
        readers = [
            (reader, index) for reader in value.outputs for index, read in enumerate(reader.inputs) if read is value
        ]
        self.remove(node)
        index = next(i for i, output in enumerate(producer.outputs) if output is value)
        list.__setitem__(producer.outputs, index, result)
        list.clear(value.inputs)
        list.append(result.inputs, producer)
        for reader, position in readers:
            if reader is not node:
                self.set_input(reader, position, result)
        self.touched.append(producer)

    def _unique(self, name: str) -> str:
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique


def _unlink_once(items: list[Any], item: Any) -> None:
    for index, candidate in enumerate(items):
        if candidate is item:
            list.__delitem__(items, index)
            return
