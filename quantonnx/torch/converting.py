"""From an ONNX graph to a list of steps: each node by the translation of its operator, shapes as Python numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from torch import nn

from quantonnx.bodies import Body, open_bodies
from quantonnx.element_types import ElementTypes
from quantonnx.errors import ModelError
from quantonnx.model import Model
from quantonnx.torch.batch_norm import BatchNormalization
from quantonnx.torch.codes import coded, passing_codes
from quantonnx.torch.fusing import view_of, with_fusions
from quantonnx.torch.graph_values import NO_LAYERS, Constants, GraphValues, Layers
from quantonnx.torch.nesting import ADDERS
from quantonnx.torch.node import Call, Kind, Node, NumberCall, Unsupported
from quantonnx.torch.number_rows import sizes_of, sizes_of_numbers
from quantonnx.torch.numbers import NUMBER_OPERATORS
from quantonnx.torch.operators import OPERATORS
from quantonnx.torch.program import Program, Step, with_drops
from quantonnx.torch.states import States
from quantonnx.weights import load_array

_SIZE_READERS = ("Shape", "Size")


class Converter(GraphValues):
    """Turns one graph into a program; its tensors go into `states`. `prefix` names those of a body, and `outer` is the
    converter of the graph around it, which has the constants that are not its own."""

    def __init__(
        self, model: Model, states: States, layers: Layers = NO_LAYERS, prefix: str = "", outer: Converter | None = None
    ) -> None:
        super().__init__(model, states, layers, prefix, outer)
        self.refused: dict[str, list[str]] = {}
        self._types = ElementTypes(model)
        self.bodies: dict[tuple[str, str], Body] = {}

    def program(self) -> Program:
        """Returns the steps. Raises ModelError with all operators that have no translation."""
        program = self.convert().finish()
        if self.refused:
            raise ModelError(_told(self.refused), "leave these parts out of the model, or ask for the operator")
        return program

    def convert(self) -> Converter:
        """Makes a step of each node; `refused` has those without a translation."""
        self.find_constants()
        self.bodies = {(body.owner, body.attribute): body for body in open_bodies(self.model)}
        for node in self.model.graph.nodes:
            self._node(node)
        return self

    def output_kinds(self) -> list[Kind | None]:
        """Returns for each output of the graph of which kind it is where it is Python numbers."""
        names = [self.given(value.name) for value in self.model.graph.outputs]
        return [self.numbers[name] if name in self.numbers or self.as_literal(name) else None for name in names]

    def finish(self, as_numbers: Sequence[bool] = ()) -> Program:
        """Returns the program; outputs are tensors, but for those that are to be Python numbers."""
        names = [self.given(value.name) for value in self.model.graph.outputs]
        kept = [*as_numbers, *[False] * len(names)]
        outputs = tuple(
            self.number_name(name) if number else self.tensor(name) for name, number in zip(names, kept, strict=False)
        )
        inputs = tuple(value.name for value in self.model.graph.inputs)
        inputs = tuple(name for name in inputs if self.formal is None or name in self.formal)
        steps = with_fusions(self.steps, view_of(self.steps, outputs, self.number, self.shape))
        return Program(inputs, outputs, with_drops(steps, {*outputs, *self.literals}), self.literals)

    def inner(self, node: gs.Node, attribute: str, kinds: Sequence[Kind] = ()) -> Converter:
        """Returns the converter of a body, done; `kinds` are those of its first inputs that are Python numbers."""
        body = self.bodies[node.name, attribute]
        if body.model is None:
            raise Unsupported(body.reason)
        inner = Converter(body.model, self.states, self.layers, f"{self.prefix}{body.name}/", self)
        own = {value.name: kind for value, kind in zip(body.model.graph.inputs, kinds, strict=False)}
        inner.take(own, {info.name for info in node.attrs[attribute].g.input})
        inner.convert()
        for name, nodes in inner.refused.items():
            self.refused.setdefault(name, []).extend(nodes)
        return inner

    def _node(self, node: gs.Node) -> None:
        if node.op == "Constant" and not node.domain:
            self.add_constant(node)
            return
        names = [self.read(node, index, value) for index, value in enumerate(node.inputs)]
        while names and not names[-1]:
            names.pop()
        try:
            self._translate(node, names)
        except Unsupported as error:
            name = node.op if not node.domain else f"{node.domain}.{node.op}"
            self.refused.setdefault(f"{name}{f' ({error})' if str(error) else ''}", []).append(node.name)
            for output in node.outputs:
                self._made.add(output.name)

    def _translate(self, node: gs.Node, names: list[str]) -> None:
        outputs = tuple(output.name for output in node.outputs)
        replaced = self.layers.nodes.get(node.name)
        if replaced is not None:
            layer, others = replaced
            inputs = (self.tensor(names[0]), *(self.tensor(name) for name in others))
            self.steps.append(Step(node.name, node.op, inputs, outputs, layer=layer))
            return
        seen = self._seen(node, names)
        if node.op in _SIZE_READERS and not node.domain:
            self._size(node, names[0], seen)
        elif node.op in ADDERS and not node.domain:
            ADDERS[node.op](self, node, names, seen)
        elif not self._on_numbers(node, names, seen, outputs):
            self._on_tensors(node, names, seen, outputs)

    def _on_numbers(self, node: gs.Node, names: list[str], seen: Node, outputs: tuple[str, ...]) -> bool:
        """Emits a step on Python numbers where all operands are such; False where that cannot be."""
        if node.domain or node.op not in NUMBER_OPERATORS:
            return False
        sized = any(name in self.numbers and name not in self.constants for name in names)
        known = [name in self.numbers or self.as_literal(name, floats=sized) for name in names if name]
        if not known or not all(known):
            return False
        call = NUMBER_OPERATORS[node.op](self._seen(node, names), [self.kind(name) for name in names])
        if call is None:
            return False
        self._emit_numbers(node, tuple(self.number_name(name) for name in names), call, outputs)
        return True

    def _emit_numbers(self, node: gs.Node, inputs: tuple[str, ...], call: NumberCall, outputs: tuple[str, ...]) -> None:
        for output in outputs:
            if output:
                self.numbers[output] = Kind(call.dtype, call.rank, length=call.length)
        if all(name in self.literals or not name for name in inputs) and len(outputs) == 1:
            values = [self.literals.get(name) for name in inputs]
            self.literals[outputs[0]] = call.function(*values, **call.settings)
        else:
            self.steps.append(Step(node.name, node.op, inputs, outputs, call.settings, call.function))

    def _on_tensors(self, node: gs.Node, names: list[str], seen: Node, outputs: tuple[str, ...]) -> None:
        if node.op == "BatchNormalization" and not node.domain:
            read = any(value.outputs or value in self.model.graph.outputs for value in node.outputs[1:])
            outputs = outputs if read else outputs[:1]
            made = BatchNormalization.of(seen, shown=len(outputs))
            layer = self.states.add_layer(f"layers.{node.name.replace('.', '/')}", made)
            self.steps.append(Step(node.name, node.op, tuple(map(self.tensor, names[:5])), outputs, layer=layer))
            return
        key = node.op if not node.domain else f"{node.domain}.{node.op}"
        if key not in OPERATORS:
            raise Unsupported
        call = passing_codes(key, OPERATORS[key](seen), [self.codes.get(name) for name in names])
        if call.gives_codes is not None:
            self.codes.update(dict.fromkeys(coded(key, outputs), call.gives_codes))
        places = range(len(names)) if call.inputs is None else call.inputs
        inputs = tuple(self._operand(names, place, call) for place in places)
        if isinstance(call.function, nn.Module):
            layer = self.states.add_layer(f"layers.{node.name.replace('.', '/')}", call.function)
            self.steps.append(Step(node.name, node.op, inputs, outputs, call.settings, layer=layer))
            return
        self.steps.append(
            Step(node.name, node.op, inputs, outputs, call.settings, call.function, on_device=call.on_device)
        )

    def _operand(self, names: list[str], place: int, call: Call) -> str:
        name = names[place] if 0 <= place < len(names) else ""
        wanted = place in call.numbers or place in call.scalars
        known = wanted and name and (name in self.numbers or self.as_literal(name))
        if known and (place in call.numbers or not self.numbers[name].rank):
            return self.number_name(name)
        return name if call.takes_codes and name in self.codes else self.tensor(name)

    def _size(self, node: gs.Node, name: str, seen: Node) -> None:
        kind = None if name in self.constants else self.kind(name)
        settings = {"start": seen.get("start", 0), "end": seen.get("end")} if node.op == "Shape" else {"count": True}
        rank = self.rank(node.inputs[0]) if kind is None else kind.rank
        length = None if rank is None else len(range(rank)[settings.get("start", 0) : settings.get("end")])
        function = sizes_of if kind is None else sizes_of_numbers
        call = NumberCall(function, np.dtype(np.int64), 0 if node.op == "Size" else 1, settings, length)
        output = node.outputs[0].name
        self._emit_numbers(node, (self.tensor(name) if kind is None else name,), call, (output,))
        if kind is not None and kind.rank == 1 and kind.length is not None:
            self.literals[output] = sizes_of_numbers((0,) * kind.length, **settings)

    def _seen(self, node: gs.Node, names: list[str]) -> Node:
        attributes = {key: _attribute(value) for key, value in node.attrs.items()}
        constants = Constants({i: self.constants[name] for i, name in enumerate(names) if name in self.constants})
        numbers = {i: self.numbers[name].rank for i, name in enumerate(names) if name in self.numbers}
        wanted = tuple(bool(output.name) for output in node.outputs)
        given = tuple(map(bool, names))
        known = constants, numbers, partial(_type_of, self._types, node)
        return Node(node.op, node.name, self.model.opset, attributes, given, wanted, *known)


def _type_of(types: ElementTypes, node: gs.Node, place: int) -> np.dtype[Any] | None:
    return types.of(node.inputs[place]) if place < len(node.inputs) else None


def _attribute(value: Any) -> Any:
    return load_array(value) if isinstance(value, gs.Constant) else value


def _told(refused: Mapping[str, list[str]]) -> str:
    shown = "; ".join(f"{name} at {len(nodes)} node(s), first {nodes[0]!r}" for name, nodes in refused.items())
    return f"the model cannot become a torch module: no translation for {shown}"
