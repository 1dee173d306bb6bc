"""Which two linear operators follow each other so that a channel between them can be scaled and no result moves.

What the first gives divided by s, channel by channel, and the inputs of the second multiplied by s leave the product
as it was, wherever f(x / s) = f(x) / s holds for all that stands between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.algorithms.norm_readers import Operand, Refused, Skip
from quantonnx.model import Model
from quantonnx.weights import load_array

Array = NDArray[Any]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_TO_ONE_PIXEL = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
_HOMOGENEOUS = _TO_ONE_PIXEL | {"AveragePool", "Identity", "LeakyRelu", "MaxPool", "Relu"}


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear operator with a constant weight that it alone reads."""

    node: gs.Node
    weight: gs.Constant

    @property
    def images(self) -> bool:
        """True where axis 1 of activations is that of the channels, and not the last."""
        return self.node.op in _CONVOLUTIONS

    @property
    def outputs(self) -> int:
        """The number of channels that it gives."""
        groups, shape = self._groups, self.weight.shape
        if self.node.op == "ConvTranspose":
            return int(shape[1]) * groups
        return int(shape[0] if self.images or self._transposed else shape[1])

    @property
    def inputs(self) -> int:
        """The number of channels that it reads."""
        groups, shape = self._groups, self.weight.shape
        if self.node.op == "Conv":
            return int(shape[1]) * groups
        return int(shape[1] if self._transposed else shape[0])

    def seen(self, weight: Array) -> Array:
        """Returns the weight as [groups, outputs of a group, inputs of a group, positions]; a view where it can be."""
        groups = self._groups
        if self.node.op == "Conv":
            return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        if self.node.op == "ConvTranspose":
            inner = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
            return inner.transpose(0, 2, 1, 3)
        return (weight if self._transposed else weight.T)[None, :, :, None]

    def scaled(self, weight: Array, outputs: Array, inputs: Array) -> Array:
        """Returns the weight times a factor for each output and input channel, in its own shape and type."""
        result = np.array(weight, np.float64, order="C")
        view, groups = self.seen(result), self._groups
        view *= outputs.reshape(groups, -1, 1, 1)
        view *= inputs.reshape(groups, 1, -1, 1)
        return result.astype(weight.dtype)

    @property
    def _groups(self) -> int:
        return int(self.node.attrs.get("group", 1)) if self.images else 1

    @property
    def _transposed(self) -> bool:
        return self.node.op == "Gemm" and bool(self.node.attrs.get("transB", 0))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two layers, the second reading what the first gives through `between` alone, and the constants added before."""

    first: Layer
    second: Layer
    added: tuple[Operand, ...]
    between: tuple[gs.Node, ...]

    @property
    def activation(self) -> str:
        """What the first layer gives."""
        return str(self.first.node.outputs[0].name)


class _Refusal(Exception):  # noqa: N818 - a refusal with a reason is an answer, not an error
    """Says why a channel cannot be scaled."""


def channel_pairs(model: Model, skip: Skip = lambda names: None) -> list[Pair | Refused]:
    """Returns each linear operator with the next one, or why its result cannot be scaled, in the order of the nodes.

    Linear operators are Conv, ConvTranspose, Gemm and MatMul with constant weights. What may stand between two are
    operators with f(x · s) = f(x) · s for positive s, and additions of one constant for each channel. `skip` is asked
    about both layers of a pair, by node name, operator and outputs.
    """
    finder = _Finder(model, skip)
    return [finder.pair(node) for node in model.graph.nodes if _is_linear(node)]


class _Finder:
    def __init__(self, model: Model, skip: Skip) -> None:
        self.model = model
        self.skip = skip
        self.public = {id(output) for output in model.graph.outputs}

    def pair(self, node: gs.Node) -> Pair | Refused:
        """Returns a layer with the next one, or why its result cannot be scaled."""
        try:
            first = self._layer(node)
            added, between = [*self._bias(first)], list[gs.Node]()
            for step in self._steps(node):
                if step.op in _CONVOLUTIONS | _PRODUCTS:
                    second = self._layer(step)
                    _check_fit(first, second, between)
                    return Pair(first, second, tuple(added), tuple(between))
                added += _addend(step, first)
                between.append(step)
        except _Refusal as refusal:
            return Refused(node.outputs[0].name, str(refusal))
        raise AssertionError("steps end in a layer or in a refusal")

    def _layer(self, node: gs.Node) -> Layer:
        rule = self.skip([node.name, node.op, *(output.name for output in node.outputs)])
        if rule is not None:
            raise _Refusal(f"{node.op} {node.name!r} is skipped by {rule!r}")
        weight = node.inputs[1]
        if not isinstance(weight, gs.Constant) or (node.op in _PRODUCTS and len(weight.shape) != 2):
            raise _Refusal(f"{node.op} {node.name!r} has no constant weight with one axis for inputs, one for outputs")
        if len(weight.outputs) > 1 or id(weight) in self.public or weight.name in self.model.captured:
            raise _Refusal(f"the weight {weight.name!r} is read by others too")
        if weight.dtype != np.float32:
            raise _Refusal(f"the weight {weight.name!r} is {weight.dtype}, which scaled numbers may not fit into")
        return Layer(node, weight)

    def _bias(self, layer: Layer) -> Iterator[Operand]:
        bias = layer.node.inputs[2] if len(layer.node.inputs) > 2 else gs.Variable.empty()
        if not bias.is_empty():
            yield _for_each_channel(bias, layer.node, 2, layer.outputs, -1)

    def _steps(self, node: gs.Node) -> Iterator[gs.Node]:
        """The operators behind a layer, each the only reader of the one before, up to the next layer."""
        value, images, flat = node.outputs[0], node.op in _CONVOLUTIONS, False
        while True:
            if id(value) in self.public or value.name in self.model.captured:
                raise _Refusal(f"{value.name!r} is an output of the graph, or read by a body of If, Loop or Scan")
            if len(value.outputs) != 1:
                raise _Refusal(f"{value.name!r} is read {len(value.outputs)} times, not once")
            reader = value.outputs[0]
            if not _is_next_layer(reader, value):
                _check_passes(reader, value, flattens=images and flat)
                flat = reader.op in _TO_ONE_PIXEL
            yield reader
            value = reader.outputs[0]


def _is_linear(node: gs.Node) -> bool:
    if node.domain or node.op not in _CONVOLUTIONS | _PRODUCTS or isinstance(node.inputs[0], gs.Constant):
        return False
    return isinstance(node.inputs[1], gs.Constant)


def _is_next_layer(node: gs.Node, value: gs.Tensor) -> bool:
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return False
    return _is_linear(node) and node.inputs[0] is value


def _check_passes(node: gs.Node, value: gs.Tensor, *, flattens: bool) -> None:
    """Refuses a reader through which a scaled channel does not stay the same channel, scaled."""
    reader = f"{node.op} {node.name!r}"
    if node.domain or not node.outputs or len(node.outputs) > 1:
        raise _Refusal(f"{reader} reads it")
    first = node.inputs[0] is value
    if node.op in _HOMOGENEOUS or node.op == "Add" or (node.op == "PRelu" and first):
        return
    if node.op == "Flatten" and flattens and node.attrs.get("axis", 1) == 1:
        return
    if node.op == "Clip":
        low, high = _bounds(node)
        if low not in (0.0, -np.inf) or high != np.inf:
            raise _Refusal(f"{reader} ends at {low:g} and {high:g}, where a scaled channel would have other ends")
        return
    raise _Refusal(f"{reader} reads it, which a scaled channel does not pass")


def _bounds(clip: gs.Node) -> tuple[float, float]:
    ends = [clip.attrs.get("min", -np.inf), clip.attrs.get("max", np.inf)]
    for index, bound in enumerate(clip.inputs[1:3]):
        if not bound.is_empty():
            ends[index] = float(load_array(bound)) if isinstance(bound, gs.Constant) else np.nan
    return float(ends[0]), float(ends[1])


def _addend(step: gs.Node, layer: Layer) -> Iterator[Operand]:
    if step.op == "Add":
        index = next((i for i, value in enumerate(step.inputs) if isinstance(value, gs.Constant)), 1)
        axis = -len(layer.weight.shape) + 1 if layer.images else -1
        yield _for_each_channel(step.inputs[index], step, index, layer.outputs, axis)


def _for_each_channel(value: gs.Tensor, node: gs.Node, index: int, channels: int, axis: int) -> Operand:
    if not isinstance(value, gs.Constant):
        raise _Refusal(f"{node.op} {node.name!r} adds {value.name!r}, which is computed")
    shape = tuple(value.shape)
    if len(shape) < -axis or (len(shape) > 1 - axis and axis != -1):
        raise _Refusal(f"{value.name!r} is {list(shape)}, not one number for each channel")
    if shape[axis] != channels or np.prod(shape) != channels:
        raise _Refusal(f"{value.name!r} is {list(shape)}, not one number for each of {channels} channels")
    return Operand(value, ((node, index),), axis)


def _check_fit(first: Layer, second: Layer, between: list[gs.Node]) -> None:
    flat = any(step.op == "Flatten" for step in between)
    if first.outputs != second.inputs or (first.images and not flat) != second.images:
        raise _Refusal(f"{second.node.op} {second.node.name!r} reads it along another axis")
