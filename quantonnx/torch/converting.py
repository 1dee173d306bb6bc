"""From an ONNX graph to a list of steps: each node by the translation of its operator, shapes as Python numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from quantonnx.element_types import ElementTypes
from quantonnx.errors import ModelError
from quantonnx.model import Model
from quantonnx.torch.batch_norm import BatchNormalization
from quantonnx.torch.codes import as_integers, passing_codes
from quantonnx.torch.dtypes import to_torch, torch_dtype
from quantonnx.torch.node import Array, Call, Node, NumberCall, Unsupported
from quantonnx.torch.numbers import NUMBER_OPERATORS, fits_numbers, from_array, sizes_of
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


class Converter:
    """Turns one graph into a program; its tensors go into `states`. `prefix` names those of a body."""

    def __init__(self, model: Model, states: States, layers: Layers = Layers(), prefix: str = "") -> None:
        self.model, self.states, self.layers, self.prefix = model, states, layers, prefix
        self.steps: list[Step] = []
        self.literals: dict[str, Any] = {}
        self.numbers: dict[str, tuple[np.dtype[Any], int]] = {}
        self.constants: dict[str, gs.Constant] = {}
        self.codes: dict[str, torch.dtype] = {}
        self.refused: dict[str, list[str]] = {}
        self._types = ElementTypes(model)
        self._made: set[str] = set()

    def program(self) -> Program:
        """Returns the steps. Raises ModelError with all operators that have no translation."""
        for node in self.model.graph.nodes:
            for value in node.inputs:
                if isinstance(value, gs.Constant):
                    self.constants.setdefault(value.name, value)
        for node in self.model.graph.nodes:
            self._node(node)
        outputs = tuple(self._tensor(self._given(value.name)) for value in self.model.graph.outputs)
        if self.refused:
            raise ModelError(_told(self.refused), "leave these parts out of the model, or ask for the operator")
        inputs = tuple(value.name for value in self.model.graph.inputs)
        steps = with_drops(self.steps, {*outputs, *self.literals})
        return Program(inputs, outputs, steps, self.literals)

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
            inputs = (self._tensor(names[0]), *(self._tensor(name) for name in others))
            self.steps.append(Step(node.name, node.op, inputs, outputs, layer=layer))
            return
        seen = self._seen(node, names)
        if node.op in _SIZE_READERS and not node.domain:
            self._size(node, names[0], seen)
        elif not self._on_numbers(node, names, seen, outputs):
            self._on_tensors(node, names, seen, outputs)

    def _on_numbers(self, node: gs.Node, names: list[str], seen: Node, outputs: tuple[str, ...]) -> bool:
        """Emits a step on Python numbers where all operands are such; False where that cannot be."""
        known = [name in self.numbers or self._as_literal(name) for name in names if name]
        if node.domain or node.op not in NUMBER_OPERATORS or not known or not all(known):
            return False
        call = NUMBER_OPERATORS[node.op](self._seen(node, names), [self.numbers.get(name) for name in names])
        if call is None:
            return False
        self._emit_numbers(node, tuple(self._number_name(name) for name in names), call, outputs)
        return True

    def _emit_numbers(self, node: gs.Node, inputs: tuple[str, ...], call: NumberCall, outputs: tuple[str, ...]) -> None:
        for output in outputs:
            if output:
                self.numbers[output] = call.dtype, call.rank
        if all(name in self.literals or not name for name in inputs) and len(outputs) == 1:
            values = [self.literals.get(name) for name in inputs]
            self.literals[outputs[0]] = call.function(*values, **call.settings)
        else:
            self.steps.append(Step(node.name, node.op, inputs, outputs, call.settings, call.function))

    def _on_tensors(self, node: gs.Node, names: list[str], seen: Node, outputs: tuple[str, ...]) -> None:
        if node.op == "BatchNormalization" and not node.domain:
            layer = self.states.add_layer(f"layers.{node.name.replace('.', '/')}", BatchNormalization.of(seen))
            self.steps.append(Step(node.name, node.op, tuple(map(self._tensor, names[:5])), outputs, layer=layer))
            return
        key = node.op if not node.domain else f"{node.domain}.{node.op}"
        if key not in OPERATORS:
            raise Unsupported
        call = passing_codes(key, OPERATORS[key](seen), [self.codes.get(name) for name in names])
        if call.gives_codes is not None:
            self.codes[outputs[0]] = call.gives_codes
        places = range(len(names)) if call.inputs is None else call.inputs
        inputs = tuple(self._operand(names, place, call) for place in places)
        self.steps.append(
            Step(node.name, node.op, inputs, outputs, call.settings, call.function, on_device=call.on_device)
        )

    def _operand(self, names: list[str], place: int, call: Call) -> str:
        name = names[place] if place < len(names) else ""
        if place in call.numbers and name and (name in self.numbers or self._as_literal(name)):
            return self._number_name(name)
        return name if call.takes_codes and name in self.codes else self._tensor(name)

    def _size(self, node: gs.Node, name: str, seen: Node) -> None:
        output = node.outputs[0].name
        if name in self.numbers:
            raise Unsupported("of a shape")
        self.numbers[output] = np.dtype(np.int64), 0 if node.op == "Size" else 1
        settings = {"start": seen.get("start", 0), "end": seen.get("end")} if node.op == "Shape" else {"count": True}
        self.steps.append(Step(node.name, node.op, (self._tensor(name),), (output,), settings, sizes_of))

    def _seen(self, node: gs.Node, names: list[str]) -> Node:
        attributes = {key: _attribute(value) for key, value in node.attrs.items()}
        constants = {i: load_array(self.constants[name]) for i, name in enumerate(names) if name in self.constants}
        numbers = {i: self.numbers[name][1] for i, name in enumerate(names) if name in self.numbers}
        wanted = tuple(bool(output.name) for output in node.outputs)
        given = tuple(map(bool, names))
        types = partial(_type_of, self._types, node)
        return Node(node.op, node.name, self.model.opset, attributes, given, wanted, constants, numbers, types)

    def _constant_node(self, node: gs.Node) -> None:
        name = node.outputs[0].name
        values = _constant_values(node)
        self.constants[name] = values if isinstance(values, gs.Constant) else gs.Constant(name, values)
        self.constants[name].outputs = node.outputs[0].outputs

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
            self.steps.append(Step(name, "FakeQuantize", (self._tensor(name),), (result,), layer=layer))
        return result

    def _as_literal(self, name: str) -> bool:
        """True where a constant can be Python numbers, which it then is, beside the tensor."""
        constant = self.constants.get(name)
        if constant is None or not fits_numbers(constant):
            return False
        values = load_array(constant)
        self.numbers[name] = values.dtype, values.ndim
        self.literals[f"{name} as numbers"] = from_array(values)
        return True

    def _number_name(self, name: str) -> str:
        return f"{name} as numbers" if name in self.constants else name

    def _tensor(self, name: str) -> str:
        """Returns the name of a value as a tensor."""
        if name in self.constants:
            return self._state(name)
        if name not in self.numbers and name not in self.codes:
            return name
        result = f"{name} as tensor"
        if result not in self._made:
            self._made.add(result)
            self.steps.append(self._tensor_step(name, result))
        return result

    def _tensor_step(self, name: str, result: str) -> Step:
        if name in self.codes:
            return Step(name, "QuantizeLinear", (name,), (result,), {"dtype": self.codes[name]}, as_integers)
        settings = {"dtype": torch_dtype(self.numbers[name][0])}
        return Step(name, "Shape", (name,), (result,), settings, as_tensor, on_device=True)

    def _state(self, name: str) -> str:
        known = self.prefix + name
        if known not in self.states.paths:
            constant = self.constants[name]
            values: Array = load_array(constant)
            self.states.add(known, to_torch(values), trained=is_weight(constant, values))
        return known


def _type_of(types: ElementTypes, node: gs.Node, place: int) -> np.dtype[Any] | None:
    return types.of(node.inputs[place])


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
