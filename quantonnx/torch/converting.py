"""From an ONNX graph to a list of steps: each node by the translation of its operator, shapes as Python numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from torch import nn

from quantonnx.bodies import Body, open_bodies
from quantonnx.errors import ModelError
from quantonnx.model import Model
from quantonnx.torch.batch_norm import BatchNormalization
from quantonnx.torch.dtypes import to_torch, torch_dtype
from quantonnx.torch.nesting import ADDERS
from quantonnx.torch.node import Array, Call, Kind, Node, NumberCall, Unsupported
from quantonnx.torch.number_rows import fits_numbers, from_array, sizes_of, sizes_of_numbers
from quantonnx.torch.numbers import NUMBER_OPERATORS
from quantonnx.torch.operators import OPERATORS
from quantonnx.torch.program import Program, Step, as_tensor, with_drops
from quantonnx.torch.states import States
from quantonnx.torch.trainable import is_weight
from quantonnx.weights import load_array

_SIZE_READERS = ("Shape", "Size")


@dataclass(frozen=True)
class Layers:
    """Layers to put into the graph: in front of a node's input, behind a value for all its readers, or in the place of
    a node, which gets the values that are named besides the node's first input. Each is a path in the module."""

    reads: Mapping[tuple[str, int], str] = field(default_factory=dict)
    gives: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


_NONE = Layers()


class Converter:
    """Turns one graph into a program; its tensors go into `states`. `prefix` names those of a body, and `outer` is the
    converter of the graph around it, which has the constants that are not its own."""

    def __init__(
        self, model: Model, states: States, layers: Layers = _NONE, prefix: str = "", outer: Converter | None = None
    ) -> None:
        self.model, self.states, self.layers, self.prefix, self.outer = model, states, layers, prefix, outer
        self.steps: list[Step] = []
        self.literals: dict[str, Any] = {}
        self.numbers: dict[str, Kind] = {}
        self.constants: dict[str, gs.Constant] = {}
        self.refused: dict[str, list[str]] = {}
        self.bodies: dict[tuple[str, str], Body] = {}
        self.borrowed = set(model.borrowed)
        self.formal: Collection[str] | None = None
        self._made: set[str] = set()
        self._given_by: dict[str, gs.Variable] = {}

    def program(self) -> Program:
        """Returns the steps. Raises ModelError with all operators that have no translation."""
        program = self.convert().finish()
        if self.refused:
            raise ModelError(_told(self.refused), "leave these parts out of the model, or ask for the operator")
        return program

    def convert(self) -> Converter:
        """Makes a step of each node; `refused` has those without a translation."""
        for value in (*(value for node in self.model.graph.nodes for value in node.inputs), *self.model.graph.outputs):
            if isinstance(value, gs.Constant):
                self.constants.setdefault(value.name, value)
        self.bodies = {(body.owner, body.attribute): body for body in open_bodies(self.model)}
        for node in self.model.graph.nodes:
            self._node(node)
        return self

    def output_kinds(self) -> list[Kind | None]:
        """Returns for each output of the graph of which kind it is where it is Python numbers."""
        names = [self._given(value.name) for value in self.model.graph.outputs]
        return [self.numbers[name] if name in self.numbers or self._as_literal(name) else None for name in names]

    def finish(self, as_numbers: Sequence[bool] = ()) -> Program:
        """Returns the program; outputs are tensors, but for those that are to be Python numbers."""
        names = [self._given(value.name) for value in self.model.graph.outputs]
        kept = [*as_numbers, *[False] * len(names)]
        outputs = tuple(
            self._number_name(name) if number else self.tensor(name) for name, number in zip(names, kept, strict=False)
        )
        inputs = (value.name for value in self.model.graph.inputs)
        inputs = tuple(name for name in inputs if self.formal is None or name in self.formal)
        return Program(inputs, outputs, with_drops(self.steps, {*outputs, *self.literals}), self.literals)

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

    def take(self, numbers: Mapping[str, Kind], formal: Collection[str]) -> None:
        """Takes over what the graph around knows of the values that this body reads from it."""
        self.numbers.update(numbers)
        self.formal = formal
        for name in (value.name for value in self.model.graph.inputs if value.name not in formal):
            if self.outer is not None and name in self.outer.constants:
                self.constants[name] = self.outer.constants[name]
                self.borrowed.add(name)
            elif self.outer is not None and name in self.outer.numbers:
                self.numbers[name] = self.outer.numbers[name]
                if name in self.outer.literals:
                    self.literals[name] = self.outer.literals[name]

    def scalar(self, name: str) -> str:
        """Returns the name of a value as a Python number where it is one, else as a tensor."""
        known = name and (name in self.numbers or self._as_literal(name)) and not self.numbers[name].rank
        return self._number_name(name) if known else self.tensor(name)

    def _node(self, node: gs.Node) -> None:
        if node.op == "Constant" and not node.domain:
            self._constant_node(node)
            return
        names = [self._read(node, index, value) for index, value in enumerate(node.inputs)]
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
        known = [name in self.numbers or self._as_literal(name, floats=sized) for name in names if name]
        if not known or not all(known):
            return False
        call = NUMBER_OPERATORS[node.op](self._seen(node, names), [self._kind(name) for name in names])
        if call is None:
            return False
        self._emit_numbers(node, tuple(self._number_name(name) for name in names), call, outputs)
        return True

    def _emit_numbers(self, node: gs.Node, inputs: tuple[str, ...], call: NumberCall, outputs: tuple[str, ...]) -> None:
        for output in outputs:
            if output:
                self.numbers[output] = Kind(call.dtype, call.rank)
        if all(name in self.literals or not name for name in inputs) and len(outputs) == 1:
            values = [self.literals.get(name) for name in inputs]
            self.literals[outputs[0]] = call.function(*values, **call.settings)
        else:
            self.steps.append(Step(node.name, node.op, inputs, outputs, call.settings, call.function))

    def _on_tensors(self, node: gs.Node, names: list[str], seen: Node, outputs: tuple[str, ...]) -> None:
        if node.op == "BatchNormalization" and not node.domain:
            layer = self.states.add_layer(f"layers.{node.name.replace('.', '/')}", BatchNormalization.of(seen))
            self.steps.append(Step(node.name, node.op, tuple(map(self.tensor, names[:5])), outputs[:1], layer=layer))
            return
        key = node.op if not node.domain else f"{node.domain}.{node.op}"
        if key not in OPERATORS:
            raise Unsupported
        call = OPERATORS[key](seen)
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
        known = wanted and name and (name in self.numbers or self._as_literal(name))
        if known and (place in call.numbers or not self.numbers[name].rank):
            return self._number_name(name)
        return self.tensor(name)

    def _kind(self, name: str) -> Kind | None:
        """Returns what is known of Python numbers; None for an absent input."""
        kind = self.numbers.get(name)
        return kind and kind._replace(literal=self.literals.get(self._number_name(name)))

    def _size(self, node: gs.Node, name: str, seen: Node) -> None:
        of_numbers = name in self.numbers and name not in self.constants
        settings = {"start": seen.get("start", 0), "end": seen.get("end")} if node.op == "Shape" else {"count": True}
        function = sizes_of_numbers if of_numbers else sizes_of
        call = NumberCall(function, np.dtype(np.int64), 0 if node.op == "Size" else 1, settings)
        self._emit_numbers(node, (name if of_numbers else self.tensor(name),), call, (node.outputs[0].name,))

    def _seen(self, node: gs.Node, names: list[str]) -> Node:
        attributes = {key: _attribute(value) for key, value in node.attrs.items()}
        constants = {i: load_array(self.constants[name]) for i, name in enumerate(names) if name in self.constants}
        numbers = {i: self.numbers[name].rank for i, name in enumerate(names) if name in self.numbers}
        types = {i: self.numbers[name].dtype for i, name in enumerate(names) if name in self.numbers}
        wanted = tuple(bool(output.name) for output in node.outputs)
        given = tuple(map(bool, names))
        return Node(node.op, node.name, self.model.opset, attributes, given, wanted, constants, numbers, types)

    def _constant_node(self, node: gs.Node) -> None:
        name = node.outputs[0].name
        values = _constant_values(node)
        self.constants[name] = values if isinstance(values, gs.Constant) else gs.Constant(name, values)
        self._given_by[name] = node.outputs[0]

    def _read(self, node: gs.Node, index: int, value: gs.Tensor) -> str:
        layer = self.layers.reads.get((node.name, index))
        if layer is None:
            return self._given(value.name) if value.name else ""
        return self._behind(layer, value.name)

    def _given(self, name: str) -> str:
        """The value, or what the layer behind it makes of it."""
        layer = self.layers.gives.get(name)
        return name if layer is None else self._behind(layer, name)

    def _behind(self, layer: str, name: str) -> str:
        result = f"{name} through {layer}"
        if result not in self._made:
            self._made.add(result)
            self.steps.append(Step(name, "FakeQuantize", (self.tensor(name),), (result,), layer=layer))
        return result

    def _as_literal(self, name: str, *, floats: bool = False) -> bool:
        """True where a constant can be Python numbers, which it then is, beside the tensor."""
        constant = self.constants.get(name)
        if constant is None or not fits_numbers(constant, floats=floats):
            return False
        values = load_array(constant)
        self.numbers[name] = Kind(values.dtype, values.ndim)
        self.literals[f"{name} as numbers"] = from_array(values)
        return True

    def _number_name(self, name: str) -> str:
        return f"{name} as numbers" if name in self.constants else name

    def tensor(self, name: str) -> str:
        """Returns the name of a value as a tensor."""
        if name in self.constants:
            return self._state(name)
        if name not in self.numbers:
            return name
        result = f"{name} as tensor"
        if result not in self._made:
            self._made.add(result)
            settings = {"dtype": torch_dtype(self.numbers[name].dtype)}
            self.steps.append(Step(name, "Shape", (name,), (result,), settings, as_tensor, on_device=True))
        return result

    def _state(self, name: str) -> str:
        constant = self.constants[name]
        if self.outer is not None and name in self.borrowed:
            self.outer.constants.setdefault(name, constant)
            return self.outer._state(name)
        known = self.prefix + name
        if known not in self.states.paths:
            values: Array = load_array(constant)
            self.states.add(known, to_torch(values), trained=is_weight(self._given_by.get(name, constant), values))
        return known


def _attribute(value: Any) -> Any:
    return load_array(value) if isinstance(value, gs.Constant) else value


def _constant_values(node: gs.Node) -> Any:
    kind, value = next(iter(node.attrs.items()))
    if kind in ("value", "sparse_value"):
        return value
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.asarray(value, dtype.get(kind, object))


def _told(refused: Mapping[str, list[str]]) -> str:
    shown = "; ".join(f"{name} at {len(nodes)} node(s), first {nodes[0]!r}" for name, nodes in refused.items())
    return f"the model cannot become a torch module: no translation for {shown}"
