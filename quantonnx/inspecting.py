"""What is in an ONNX file, anybody's: its interface, operators and sizes, and the Q/DQ pairs that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.bodies import open_bodies
from quantonnx.model import Model
from quantonnx.model_files import file_size
from quantonnx.provenance import provenance
from quantonnx.weights import byte_size

_CONSTANT_TYPES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
MOVING = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that move values without changing them, so that codes pass as well."""


@dataclass(frozen=True)
class Value:
    """One input or output: its element type, and its shape with numbers, names or None for unknown."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, eq=False)
class Pair:
    """A QuantizeLinear on a computed value, and the DequantizeLinear nodes that its codes end in.

    Between them may stand operators that only move codes (`moving`). `open` says why the pair is not closed: what else
    reads the codes.
    """

    quantize: gs.Node
    dequantize: tuple[gs.Node, ...]
    moving: tuple[gs.Node, ...] = ()
    open: str = ""

    @property
    def tensor(self) -> str:
        """The name of the float value that is quantized."""
        return str(self.quantize.inputs[0].name)


@dataclass(frozen=True)
class QuantizedConstant:
    """A DequantizeLinear on stored codes, or a Q/DQ pair on a stored float value: a weight or a bias."""

    node: gs.Node
    stored: gs.Constant

    @property
    def is_bias(self) -> bool:
        """True for int32 codes."""
        return str(np.dtype(self.stored.dtype)) == "int32"


@dataclass(frozen=True)
class Pairs:
    """All Q/DQ pairs of a model."""

    activations: tuple[Pair, ...]
    constants: tuple[QuantizedConstant, ...]

    @property
    def weights(self) -> int:
        """The number of quantized weights."""
        return sum(not constant.is_bias for constant in self.constants)

    @property
    def biases(self) -> int:
        """The number of int32 biases."""
        return sum(constant.is_bias for constant in self.constants)


@dataclass(frozen=True)
class Inside:
    """What is in the body of an If, Loop or Scan."""

    name: str
    operators: tuple[tuple[str, int], ...]
    activation_pairs: int
    weight_pairs: int
    reason: str = ""  # why nothing is known of it


@dataclass(frozen=True)
class Inspection:
    """What `quantonnx inspect` shows."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opset: int
    domains: tuple[tuple[str, int], ...]
    ir_version: int
    producer: str
    operators: tuple[tuple[str, int], ...]
    activation_pairs: int
    weight_pairs: int
    bias_pairs: int
    formats: tuple[tuple[str, int], ...]
    parameters: int
    bytes_by_type: tuple[tuple[str, int], ...]
    file_bytes: int
    bodies: int
    inside: tuple[Inside, ...]
    provenance: dict[str, str]


def inspect(source: str | Path) -> Inspection:
    """Returns what is in an ONNX file. Raises ModelError for one that cannot be read."""
    model = Model.read(source)
    graph, pairs, stored = model.graph, find_pairs(model), list(_stored(model))
    return Inspection(
        inputs=tuple(_value(value) for value in graph.inputs),
        outputs=tuple(_value(value) for value in graph.outputs),
        opset=model.opset,
        domains=tuple((entry.domain or "ai.onnx", entry.version) for entry in graph.import_domains or ()),
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (graph.producer_name, graph.producer_version))),
        operators=_operators(model),
        activation_pairs=len(pairs.activations),
        weight_pairs=pairs.weights,
        bias_pairs=pairs.biases,
        formats=tuple(Counter(_formats(model, pairs)).most_common()),
        parameters=sum(prod(constant.shape) for constant in stored),
        bytes_by_type=_bytes_by_type(stored),
        file_bytes=file_size(source),
        bodies=len(model.left_in_float),
        inside=tuple(_inside(model)),
        provenance=provenance(model.metadata),
    )


def _operators(model: Model) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(_operator(node) for node in model.graph.nodes).most_common())


def _inside(model: Model) -> Iterator[Inside]:
    for body in open_bodies(model):
        if body.model is None:
            yield Inside(body.name, (), 0, 0, body.reason)
            continue
        pairs = find_pairs(body.model)
        yield Inside(body.name, _operators(body.model), len(pairs.activations), pairs.weights)
        yield from _inside(body.model)


def interface(model: Model) -> dict[str, str]:
    """Returns opset, inputs and outputs of a model as text, by what they are."""
    found = {"opset": str(model.opset)}
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in map(_value, values):
            found[f"{kind} {value.name}"] = f"{value.dtype} {'unknown' if value.shape is None else list(value.shape)}"
    return found


def find_pairs(model: Model) -> Pairs:
    """Returns the Q/DQ pairs of a model, whoever made it."""
    activations = []
    constants = []
    for node in model.graph.nodes:
        if node.op == "QuantizeLinear" and not isinstance(node.inputs[0], gs.Constant):
            activations.append(_pair(model, node))
        elif node.op == "DequantizeLinear" and (stored := _stored_behind(node)) is not None:
            constants.append(QuantizedConstant(node, stored))
    return Pairs(tuple(activations), tuple(constants))


def constant_of(value: gs.Tensor) -> gs.Constant | None:
    """Returns the constant that a value is: an initializer, or the result of a Constant node; None for others."""
    if isinstance(value, gs.Constant):
        return value
    if len(value.inputs) != 1 or value.inputs[0].op != "Constant":
        return None
    if len(value.inputs[0].attrs) != 1:
        return None
    ((attribute, held),) = value.inputs[0].attrs.items()
    if isinstance(held, gs.Constant):
        return held
    dtype = _CONSTANT_TYPES.get(attribute)
    return gs.Constant(value.name, np.array(held, dtype)) if dtype is not None else None


def _pair(model: Model, quantize: gs.Node) -> Pair:
    """Follows the codes through operators that only move them."""
    ends: dict[int, gs.Node] = {}
    moving: dict[int, gs.Node] = {}
    public = {id(output) for output in model.graph.outputs}
    waiting = [quantize.outputs[0]]
    reason = ""
    while waiting:
        codes = waiting.pop()
        if id(codes) in public or codes.name in model.captured:
            reason = f"the codes {codes.name!r} leave the graph"
        for reader in codes.outputs:
            if reader.op == "DequantizeLinear":
                ends[id(reader)] = reader
            elif reader.op in MOVING and id(reader) not in moving:
                moving[id(reader)] = reader
                waiting += [output for output in reader.outputs if output.name]
            elif reader.op not in MOVING:
                reason = f"{reader.op} {reader.name!r} computes on the codes"
    if not ends and not reason:
        reason = "nothing dequantizes it"
    return Pair(quantize, tuple(ends.values()), tuple(moving.values()), reason)


def _stored_behind(dequantize: gs.Node) -> gs.Constant | None:
    codes = dequantize.inputs[0]
    stored = constant_of(codes)
    if stored is None and codes.inputs and codes.inputs[0].op == "QuantizeLinear":
        return constant_of(codes.inputs[0].inputs[0])
    return stored


def _stored(model: Model) -> Iterator[gs.Constant]:
    seen = set()
    for node in model.graph.nodes:
        for value in node.inputs:
            if isinstance(value, gs.Constant) and id(value) not in seen:
                seen.add(id(value))
                yield value


def _bytes_by_type(stored: list[gs.Constant]) -> tuple[tuple[str, int], ...]:
    sizes: Counter[str] = Counter()
    for constant in stored:
        dtype = np.dtype(constant.dtype)
        sizes[dtype.name] += byte_size(constant.shape, dtype)
    return tuple(sizes.most_common())


def _value(value: gs.Tensor) -> Value:
    dtype = "unknown" if value.dtype is None else np.dtype(value.dtype).name
    return Value(value.name, dtype, None if value.shape is None else tuple(value.shape))


def _operator(node: gs.Node) -> str:
    return f"{node.domain}.{node.op}" if node.domain else str(node.op)


def _formats(model: Model, pairs: Pairs) -> Iterator[str]:
    """The kinds of activation pairs: element type, and whether zero stands at code 0."""
    for pair in pairs.activations:
        found = zero_point(model, pair.quantize)
        if found is None:
            yield "uint8, zero point 0" if len(pair.quantize.inputs) < 3 else "computed zero point"
        else:
            yield f"{found.dtype}, zero point {'0' if not found.any() else '≠ 0'}"


def zero_point(model: Model, node: gs.Node) -> np.ndarray[Any, Any] | None:
    """Returns the zero point of a QuantizeLinear or DequantizeLinear; None where it is absent or computed."""
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return None
    stored = constant_of(node.inputs[2])
    return None if stored is None else model.array(stored)
