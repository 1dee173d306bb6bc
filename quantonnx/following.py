"""Shapes that depend on shapes: what a graph computes with sizes, followed node by node.

ONNX's inference over a whole graph loses track at the first size that is divided, compared or selected. Once every
input has a size, all of these are numbers that can be computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TypeProto, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, Any]

LARGEST_VALUE = 1000
"""Values of up to this many elements are computed: more than any shape has."""

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_ABOUT_SHAPE = frozenset({"Shape", "Size"})


def complete(model: ModelProto, types: dict[str, TypeProto]) -> None:
    """Adds to `types`, which has those that are known by name, what can be found by following the nodes in order."""
    follower = _Follower(model, types)
    for node in model.graph.node:
        follower.step(node)


def sizes_of(kind: TypeProto | None) -> tuple[int, ...] | None:
    """Returns the shape of a type when all of it is known."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


class _Follower:
    def __init__(self, model: ModelProto, types: dict[str, TypeProto]) -> None:
        self._types = types
        self._versions = {entry.domain: entry.version for entry in model.opset_import}
        self._opsets = list(model.opset_import)
        self._values: dict[str, Array] = {}
        for tensor in model.graph.initializer:
            self._values[tensor.name] = numpy_helper.to_array(tensor)

    def step(self, node: NodeProto) -> None:
        """Finds the values that a node gives, or else their types."""
        with suppress(Exception):  # the reference implementation has gaps
            if self._compute(node):
                return
        with suppress(Exception):  # a node that cannot be followed hides only what it gives
            if any(sizes_of(self._types.get(name)) is None for name in node.output if name):
                self._infer(node)

    def _compute(self, node: NodeProto) -> bool:
        inputs = self._inputs(node)
        if inputs is None or node.domain or node.op_type in _RANDOM or self._is_large(node, inputs):
            return False
        results = ReferenceEvaluator(node, opsets=self._versions).run(None, dict(inputs))
        for name, result in zip(node.output, results, strict=False):
            value = np.asarray(result)
            self._types[name] = onnx.helper.make_tensor_type_proto(
                onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            if value.size <= LARGEST_VALUE:
                self._values[name] = value
        return True

    def _inputs(self, node: NodeProto) -> Mapping[str, Array] | None:
        if node.op_type in _ABOUT_SHAPE:
            sizes = sizes_of(self._types.get(node.input[0]))
            return None if sizes is None else {node.input[0]: np.broadcast_to(np.float32(0), sizes)}
        if not all(name in self._values for name in node.input if name):
            return None
        return {name: self._values[name] for name in node.input if name}

    def _is_large(self, node: NodeProto, inputs: Mapping[str, Array]) -> bool:
        known = [sizes_of(self._types.get(name)) for name in node.output]
        if any(sizes is not None and prod(sizes) > LARGEST_VALUE for sizes in known):
            return True
        if node.op_type in _ABOUT_SHAPE or not any(sizes is None for sizes in known):
            return False
        whole = (value for value in inputs.values() if value.dtype.kind in "iu" and 0 < value.size <= 8)
        return node.op_type in ("ConstantOfShape", "Expand", "Tile", "Pad", "Range") and any(
            np.abs(value).max() > LARGEST_VALUE or np.prod(np.maximum(value, 1), dtype=float) > LARGEST_VALUE
            for value in whole
        )

    def _infer(self, node: NodeProto) -> None:
        schema = onnx.defs.get_schema(node.op_type, self._versions.get(node.domain, 1), node.domain)
        names = [name for name in node.input if name]
        data = {name: numpy_helper.from_array(self._values[name]) for name in names if name in self._values}
        kinds = {name: self._types[name] for name in names if name in self._types}
        self._types.update(shape_inference.infer_node_outputs(schema, node, kinds, data, None, self._opsets))


def unknown(model: ModelProto, types: Mapping[str, TypeProto]) -> bool:
    """True where the type of some value that a node gives is not wholly known."""
    given: Iterable[str] = (name for node in model.graph.node for name in node.output if name)
    return any(sizes_of(types.get(name)) is None for name in given)
