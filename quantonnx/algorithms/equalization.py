"""Cross-layer equalization: the channels between two layers are scaled until both layers' weights are equally large.

A channel with small weights has few codes where one scale serves all channels. Dividing what a layer gives in channel i
by s_i = √(r1_i · r2_i) / r2_i, r1_i being the largest weight that gives the channel and r2_i the largest that reads it,
makes both √(r1_i · r2_i) and changes no result in float (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.1, equation 11). Pairs are equalized in turn until nothing
moves, which for a depthwise convolution between two others makes all three equally large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.algorithms.channel_pairs import Layer, Pair, channel_pairs
from quantonnx.algorithms.norm_readers import Operand, Refused, Skip
from quantonnx.editing import Rewriter
from quantonnx.model import Model
from quantonnx.weights import DeferredValues, load_array, to_onnx_dtype

Array = NDArray[Any]

_ROUNDS = 200
_CONVERGED = 1e-4

_DEAD = float(np.finfo(np.float32).eps)
"""A channel whose weights are smaller than this beside the largest carries its bias alone, which no factor may blow
up."""


@dataclass(frozen=True)
class Equalized:
    """A value whose channels were divided by `scale`, float64 [channels]; the operators that give and that read it."""

    activation: str
    first: str
    second: str
    scale: Array


@dataclass(frozen=True)
class Equalization:
    """An equalized model, what was equalized in it, what was not and why, and how often all pairs were visited."""

    model: Model
    equalized: tuple[Equalized, ...]
    refused: tuple[Refused, ...]
    rounds: int


def equalize(model: Model, *, skip: Skip = lambda names: None) -> Equalization:
    """Returns the fused float model equalized; no sample is needed, and the results are those of the model.

    `skip` names layers to leave alone.
    """
    twin = model.copy()
    found = channel_pairs(twin, skip)
    pairs, unfit = _finite([each for each in found if isinstance(each, Pair)])
    refused = (*(each for each in found if isinstance(each, Refused)), *unfit)
    balance = _Balance(pairs)
    rounds = balance.settle()
    balance.write(Rewriter(twin))
    equalized = (
        Equalized(pair.activation, pair.first.node.name, pair.second.node.name, balance.scale(pair)) for pair in pairs
    )
    return Equalization(twin, tuple(equalized), refused, rounds)


def _finite(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Refused]]:
    """Sets pairs apart that hold NaN or infinity."""
    fit, unfit = list[Pair](), list[Refused]()
    for pair in pairs:
        constants = (pair.first.weight, pair.second.weight, *(each.constant for each in pair.added))
        wrong = next((each for each in constants if not np.isfinite(load_array(each)).all()), None)
        if wrong is None:
            fit.append(pair)
        else:
            unfit.append(Refused(pair.activation, f"{wrong.name!r} holds NaN or infinity"))
    return fit, unfit


class _Balance:
    """The largest weight between each output and input of every layer, and the factors found for them so far."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self.layers = {id(each.node): each for pair in pairs for each in (pair.first, pair.second)}
        self.largest = {key: _largest(layer) for key, layer in self.layers.items()}
        self.outputs = {key: np.ones(layer.outputs) for key, layer in self.layers.items()}
        self.inputs = {key: np.ones(layer.inputs) for key, layer in self.layers.items()}
        self.alive = {id(pair): _alive(self._given(pair.first)) & _alive(self._read(pair.second)) for pair in pairs}

    def settle(self) -> int:
        """Equalizes all pairs in turn until no factor moves, and returns how often."""
        for done in range(_ROUNDS):
            if max(map(self._equalize, self.pairs), default=0.0) < _CONVERGED:
                return done
        return _ROUNDS

    def scale(self, pair: Pair) -> Array:
        """Returns by what the channels of a pair are divided."""
        return self.inputs[id(pair.second.node)]

    def write(self, editor: Rewriter) -> None:
        """Scales the weights, and what is added to what they give."""
        for key, layer in self.layers.items():
            old = _unscaled(layer.weight)
            compute = partial(_scaled_weight, layer, old, self.outputs[key], self.inputs[key])
            layer.weight._values = DeferredValues(old.shape, to_onnx_dtype(old.dtype), compute)
        for pair in self.pairs:
            for operand in pair.added:
                _divide(editor, operand, self.scale(pair))

    def _equalize(self, pair: Pair) -> float:
        """Returns how far the factors moved, as the largest |log s|."""
        given, read, alive = self._given(pair.first), self._read(pair.second), self.alive[id(pair)]
        scale = np.sqrt(np.where(alive, given, 1.0) / np.where(alive, read, 1.0))
        self.outputs[id(pair.first.node)] /= scale
        self.inputs[id(pair.second.node)] *= scale
        return float(np.abs(np.log(scale)).max(initial=0.0))

    def _given(self, layer: Layer) -> Array:
        """The largest weight that gives each output channel."""
        largest, key = self.largest[id(layer.node)], id(layer.node)
        inputs = self.inputs[key].reshape(len(largest), 1, -1)
        return np.asarray((largest * inputs).max(axis=2, initial=0.0).reshape(-1) * self.outputs[key])

    def _read(self, layer: Layer) -> Array:
        """The largest weight that reads each input channel."""
        largest, key = self.largest[id(layer.node)], id(layer.node)
        outputs = self.outputs[key].reshape(len(largest), -1, 1)
        return np.asarray((largest * outputs).max(axis=1, initial=0.0).reshape(-1) * self.inputs[key])


def _largest(layer: Layer) -> Array:
    """max|W| over positions, [groups, outputs of a group, inputs of a group]."""
    return np.asarray(np.abs(layer.seen(load_array(layer.weight))).max(axis=3, initial=0.0))


def _alive(largest: Array) -> Array:
    return np.asarray(largest > _DEAD * largest.max(initial=0.0))


def _unscaled(value: gs.Constant) -> gs.Constant:
    """A constant with the values that this one has now."""
    old = gs.Constant(value.name, value._values)
    old._export_dtype = value._export_dtype
    return old


def _scaled_weight(layer: Layer, old: gs.Constant, outputs: Array, inputs: Array) -> Array:
    return layer.scaled(load_array(old), outputs, inputs)


def _divide(editor: Rewriter, operand: Operand, scale: Array) -> None:
    """Changes a constant that nothing else reads; of others, the reader here gets a copy of its own."""
    old, (node, index) = operand.constant, operand.edges[0]
    values = load_array(old)
    along = [1] * values.ndim
    along[operand.axis] = -1
    name = f"{node.outputs[0].name}_bias"
    new = editor.constant(name, (values / scale.reshape(along)).astype(values.dtype))
    if len(old.outputs) == 1 and not editor.is_public(old):
        old._values = new._values
    else:
        editor.set_input(node, index, new)
