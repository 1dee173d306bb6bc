"""The values of a graph that becomes a program: constants as states of the module or as Python numbers, and layers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from quantonnx.model import Model
from quantonnx.shapes import Shape, infer_shapes
from quantonnx.torch.codes import as_integers
from quantonnx.torch.dtypes import to_torch, torch_dtype
from quantonnx.torch.node import Array, Kind
from quantonnx.torch.number_rows import fits_numbers, from_array
from quantonnx.torch.program import Step, as_tensor
from quantonnx.torch.states import States
from quantonnx.torch.trainable import is_weight
from quantonnx.weights import load_array


@dataclass(frozen=True)
class Layers:
    """Layers to put into the graph: in front of a node's input, behind a value for all its readers, or in the place of
    a node, which gets the values that are named besides the node's first input. Each is a path in the module.

    `besides` names the values that the layer at a path gets besides the one it stands at. `constants` are further
    constants that these layers read, with whether they are trained.
    """

    reads: Mapping[tuple[str, int], str] = field(default_factory=dict)
    gives: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    besides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, tuple[gs.Constant, bool]] = field(default_factory=dict)


NO_LAYERS = Layers()


class Constants(Mapping[int, Array]):
    """The values of constants by position, each read when asked for."""

    def __init__(self, constants: Mapping[int, gs.Constant]) -> None:
        self._constants = constants

    def __getitem__(self, place: int) -> Array:
        return load_array(self._constants[place])

    def __iter__(self) -> Iterator[int]:
        return iter(self._constants)

    def __len__(self) -> int:
        return len(self._constants)


class GraphValues:
    """What is known of a graph's values, and the steps that make them.

    `prefix` names the states of a body, and `outer` is the graph around it, which has the constants that are not its
    own; `formal` are then the inputs that the operator gives.
    """

    def __init__(self, model: Model, states: States, layers: Layers, prefix: str, outer: GraphValues | None) -> None:
        self.model, self.states, self.layers, self.prefix, self.outer = model, states, layers, prefix, outer
        self.steps: list[Step] = []
        self.literals: dict[str, Any] = {}
        self.numbers: dict[str, Kind] = {}
        self.constants: dict[str, gs.Constant] = {}
        self.codes: dict[str, torch.dtype] = {}
        self.borrowed = set(model.borrowed)
        self.formal: Collection[str] | None = None
        self._made: set[str] = set()
        self._shapes: Mapping[str, Shape] | None = None
        self._given_by: dict[str, gs.Variable] = {}

    def find_constants(self) -> None:
        """Finds the initializers that something reads, and the constants of layers."""
        for value in (*(value for node in self.model.graph.nodes for value in node.inputs), *self.model.graph.outputs):
            if isinstance(value, gs.Constant):
                self.constants.setdefault(value.name, value)
        for name, (constant, _) in self.layers.constants.items():
            self.constants[name] = constant
            self.borrowed.update([name] if self.outer is not None else [])

    def take(self, numbers: Mapping[str, Kind], formal: Collection[str]) -> None:
        """Takes over what the graph around knows of the values that this body reads from it."""
        self.numbers.update(numbers)
        self.formal, outer = formal, self.outer
        for name in (value.name for value in self.model.graph.inputs if value.name not in formal):
            if outer is not None and name in outer.constants:
                self.constants[name] = outer.constants[name]
                self.borrowed.add(name)
            elif outer is not None and name in outer.numbers:
                self.numbers[name] = outer.numbers[name]
                self.literals.update({name: outer.literals[name]} if name in outer.literals else {})

    def add_constant(self, node: gs.Node) -> None:
        """Takes the value of a Constant node."""
        name = node.outputs[0].name
        values = _constant_values(node)
        self.constants[name] = values if isinstance(values, gs.Constant) else gs.Constant(name, values)
        self._given_by[name] = node.outputs[0]

    def read(self, node: gs.Node, index: int, value: gs.Tensor) -> str:
        """Returns the name of what a node reads: the value, or what the layer in front of that input makes of it."""
        layer = self.layers.reads.get((node.name, index))
        if layer is None:
            return self.given(value.name) if value.name else ""
        return self._behind(layer, value.name)

    def given(self, name: str) -> str:
        """The value, or what the layer behind it makes of it."""
        layer = self.layers.gives.get(name)
        return name if layer is None else self._behind(layer, name)

    def _behind(self, layer: str, name: str) -> str:
        result = f"{name} through {layer}"
        if result not in self._made:
            self._made.add(result)
            inputs = tuple(self.tensor(each) for each in (name, *self.layers.besides.get(layer, ())))
            self.steps.append(Step(name, "FakeQuantize", inputs, (result,), layer=layer))
        return result

    def as_literal(self, name: str, *, floats: bool = False) -> bool:
        """True where a constant can be Python numbers, which it then is, beside the tensor."""
        constant = self.constants.get(name)
        if constant is None or not fits_numbers(constant, floats=floats):
            return False
        values = load_array(constant)
        self.numbers[name] = Kind(values.dtype, values.ndim, length=values.size if values.ndim else None)
        self.literals[f"{name} as numbers"] = from_array(values)
        return True

    def number_name(self, name: str) -> str:
        """Returns the name of a value as Python numbers."""
        return f"{name} as numbers" if name in self.constants else name

    def tensor(self, name: str) -> str:
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
        settings = {"dtype": torch_dtype(self.numbers[name].dtype)}
        return Step(name, "Shape", (name,), (result,), settings, as_tensor, on_device=True)

    def _state(self, name: str) -> str:
        constant = self.constants[name]
        if self.outer is not None and name in self.borrowed:
            self.outer.constants.setdefault(name, constant)
            return self.outer._state(name)
        known = self.prefix + name
        if known not in self.states.paths:
            values: Array = load_array(constant)
            giver = self._given_by.get(name, constant)
            trained = self.layers.constants[name][1] if name in self.layers.constants else is_weight(giver, values)
            self.states.add(known, to_torch(values), trained=trained)
        return known

    def rank(self, value: gs.Tensor) -> int | None:
        """Returns how many axes a value has, as the file tells it, or as follows from what it tells."""
        if value.shape is None and self._shapes is None:
            self._shapes = infer_shapes(self.model)
        shape = value.shape if value.shape is not None else (self._shapes or {}).get(value.name)
        return None if shape is None else len(shape)

    def number(self, name: str) -> float | None:
        """Returns the value of a constant that is one number."""
        value = self.literals.get(name)
        if isinstance(value, int | float):
            return value
        constant = self._constant(name)
        return (
            float(load_array(constant).reshape(())) if constant is not None and math.prod(constant.shape) == 1 else None
        )

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Returns the shape of a constant."""
        constant = self._constant(name)
        return None if constant is None else tuple(constant.shape)

    def _constant(self, name: str) -> gs.Constant | None:
        """Returns the constant of a state."""
        known = name.removeprefix(self.prefix)
        if known in self.constants and known not in self.borrowed:
            return self.constants[known] if name == self.prefix + known else None
        return None if self.outer is None else self.outer._constant(name)

    def scalar(self, name: str) -> str:
        """Returns the name of a value as a Python number where it is one, else as a tensor."""
        known = name and (name in self.numbers or self.as_literal(name)) and not self.numbers[name].rank
        return self.number_name(name) if known else self.tensor(name)

    def kind(self, name: str) -> Kind | None:
        """Returns what is known of Python numbers; None for an absent input."""
        kind = self.numbers.get(name)
        return kind and kind._replace(literal=self.literals.get(self.number_name(name)))


def _constant_values(node: gs.Node) -> Any:
    kind, value = next(iter(node.attrs.items()))
    if kind in ("value", "sparse_value"):
        return value
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.asarray(value, dtype.get(kind, object))
