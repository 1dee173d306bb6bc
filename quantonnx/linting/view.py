"""A quantized file as the rules look at it: the numbers of its pairs, and who reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.inspecting import MOVING, Pair, Pairs, QuantizedConstant, constant_of, find_pairs
from quantonnx.linting.profiles import Profile
from quantonnx.linting.skeleton import Skeleton, skeleton_of
from quantonnx.model import Model
from quantonnx.weights import to_numpy_dtype

Array = np.ndarray[Any, Any]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with a weight that compilers run on integers."""

_PAIR_OPERATORS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, eq=False)
class Coder:
    """The numbers of one QuantizeLinear or DequantizeLinear; `scale` and `zero_point` are None where computed."""

    node: gs.Node
    scale: Array | None
    zero_point: Array | None
    dtype: np.dtype[Any]
    axis: int
    block_size: int

    @property
    def bits(self) -> int:
        """The bits of a code."""
        found = re.search(r"\d+", self.dtype.name)
        return int(found.group()) if found else 8

    @property
    def is_integer(self) -> bool:
        """False for float8 and float4."""
        return "int" in self.dtype.name

    @property
    def signed(self) -> bool:
        """True for codes that can be negative."""
        return not self.dtype.name.startswith("uint")

    @property
    def symmetric(self) -> bool:
        """True where zero has the code 0, or the middle code of an unsigned type, everywhere."""
        if self.zero_point is None:
            return True
        middle = 0 if self.signed else 1 << (self.bits - 1)
        return bool((self.zero_point == middle).all())

    @property
    def zero_is_zero(self) -> bool:
        """True where the code 0 stands for zero."""
        return self.zero_point is None or not np.asarray(self.zero_point, np.float32).any()

    @property
    def per_channel(self) -> bool:
        """True for more than one scale along one axis."""
        return self.scale is not None and self.scale.size > 1 and not self.block_size

    def same_numbers(self, other: Coder) -> bool:
        """True where both have equal scales, zero points and types."""
        if self.scale is None or other.scale is None or self.dtype != other.dtype:
            return self.scale is other.scale and self.dtype == other.dtype
        return _equal(self.scale, other.scale) and _equal(self.zeros, other.zeros)

    def only_saturates(self, before: Coder) -> bool:
        """True where it quantizes what `before` gives with the same scale and the other signedness: a row of such pairs
        saturates where fewer bits end."""
        if self.scale is None or before.scale is None or not (self.is_integer and before.is_integer):
            return False
        return self.bits == before.bits and self.signed != before.signed and _equal(self.scale, before.scale)

    @property
    def zeros(self) -> Array:
        """The zero points as numbers, 0 where there are none."""
        return np.zeros(1) if self.zero_point is None else np.asarray(self.zero_point, np.float64).reshape(-1)

    @property
    def lowest_code(self) -> int:
        """The lowest code that the type has."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def range(self) -> tuple[float, float]:
        """The real numbers at which a coder with one scale saturates."""
        assert self.scale is not None
        scale, zero = float(self.scale.reshape(-1)[0]), float(self.zeros[0])
        highest = self.lowest_code + (1 << self.bits) - 1
        return (self.lowest_code - zero) * scale, (highest - zero) * scale


class View:
    """What the rules ask: the model, the target, the pairs with their numbers, and the float network behind them."""

    def __init__(self, model: Model, profile: Profile) -> None:
        self.model = model
        self.profile = profile
        self.nodes: list[gs.Node] = list(model.graph.nodes)
        self.coders = {id(node): _coder(model, node) for node in self.nodes if node.op in _PAIR_OPERATORS}
        self._public = {id(output) for output in model.graph.outputs}

    @cached_property
    def pairs(self) -> Pairs:
        """All pairs."""
        return find_pairs(self.model)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The float network, and what the target fuses in it."""
        return skeleton_of(self.model, self.profile.target)

    @property
    def quantizers(self) -> Iterator[tuple[Pair, Coder]]:
        """The pairs on activations, with the numbers of their QuantizeLinear."""
        return ((pair, self.coders[id(pair.quantize)]) for pair in self.pairs.activations)

    @property
    def constants(self) -> Iterator[tuple[QuantizedConstant, Coder]]:
        """The quantized constants, with the numbers of their DequantizeLinear."""
        return ((constant, self.coders[id(constant.node)]) for constant in self.pairs.constants)

    def is_public(self, value: gs.Tensor) -> bool:
        """True for an output of the graph, and for what a body reads."""
        return id(value) in self._public or value.name in self.model.captured

    def dequantizer(self, value: gs.Tensor) -> Coder | None:
        """Returns the numbers of the DequantizeLinear that gives a value, itself or through operators that move it."""
        while value.inputs and value.inputs[0].op in MOVING and value.inputs[0].inputs:
            value = value.inputs[0].inputs[0]
        return self.coders.get(id(value.inputs[0])) if value.inputs else None

    def is_quantized(self, value: gs.Tensor) -> bool:
        """True where a value comes from dequantized ones only, moved or joined."""
        producer = value.inputs[0] if value.inputs else None
        if producer is not None and producer.op == "Concat":
            return all(self.is_quantized(branch) for branch in producer.inputs)
        return self.dequantizer(value) is not None

    def is_quantized_constant(self, coder: Coder) -> bool:
        """True for the DequantizeLinear of a weight or bias."""
        return id(coder.node) in self._constant_ids

    def weight_index(self, node: gs.Node) -> int | None:
        """Returns which input of an operator is its weight: a constant, quantized or not."""
        for index in (1, 0):
            if index < len(node.inputs) and self._is_constant(node.inputs[index]):
                return index
        return None

    @cached_property
    def _constant_ids(self) -> set[int]:
        return {id(constant.node) for constant in self.pairs.constants}

    def _is_constant(self, value: gs.Tensor) -> bool:
        coder = self.dequantizer(value)
        if coder is not None:
            return self.is_quantized_constant(coder)
        return constant_of(value) is not None


def named(node: gs.Node) -> str:
    """Returns a node as people read it."""
    return f"{node.op} {node.name!r}"


def readers_of(pair: Pair) -> list[gs.Node]:
    """Returns the operators that read the dequantized values of a pair, or move its codes."""
    ends = [reader for node in pair.dequantize for reader in node.outputs[0].outputs]
    return [*pair.moving, *ends]


def _coder(model: Model, node: gs.Node) -> Coder:
    scale = _values(model, node, 1)
    zero_point = _values(model, node, 2)
    axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
    return Coder(node, scale, zero_point, _code_type(node), axis, block)


def _values(model: Model, node: gs.Node, index: int) -> Array | None:
    stored = constant_of(node.inputs[index]) if index < len(node.inputs) and node.inputs[index].name else None
    return None if stored is None else model.array(stored)


def _code_type(node: gs.Node) -> np.dtype[Any]:
    if len(node.inputs) > 2 and node.inputs[2].name:
        stored = constant_of(node.inputs[2])
        known = node.inputs[2].dtype if stored is None else stored.dtype
        if known is not None:
            return _dtype(known)
    if node.op == "QuantizeLinear":
        return to_numpy_dtype(node.attrs.get("output_dtype") or TensorProto.UINT8) or np.dtype(np.uint8)
    codes = node.inputs[0]
    if codes.inputs and codes.inputs[0].op == "QuantizeLinear":
        return _code_type(codes.inputs[0])
    stored = constant_of(codes)
    return _dtype(stored.dtype if stored is not None else codes.dtype or np.uint8)


def _dtype(known: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(known)
    return found


def _equal(a: Array, b: Array) -> bool:
    return a.size == b.size and bool(np.array_equal(a.reshape(-1), b.reshape(-1), equal_nan=True))
