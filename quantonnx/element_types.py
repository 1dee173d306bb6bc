"""Element types of values, also of those that a file does not declare.

An export in float16 often says nothing about inner values, and Q/DQ needs a scale of the very type of what it
quantizes. What an operator gives follows from its schema: a type of its own, or that of certain inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from quantonnx.model import Model
from quantonnx.ordering import body_graphs, has_body
from quantonnx.weights import to_numpy_dtype

DType = np.dtype[Any]

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})

_NAMED_BY = {"Cast": "to", "ConstantOfShape": "value", "Constant": "value"}
_TEXT = {"float": "float32", "double": "float64"}


@lru_cache(maxsize=64)
def type_name(kind: DType) -> str:
    """Returns what numpy calls a type, which it puts together anew each time."""
    return str(kind.name)


class ElementTypes:
    """The element types of one model's values, found when asked for and remembered; all together in linear time."""

    def __init__(self, model: Model) -> None:
        self._opset = model.opset
        self._known: dict[str, DType | None] = {}

    def of(self, value: gs.Tensor) -> DType | None:
        """Returns the element type of a value: declared, or as its operator's schema has it; None when unknown."""
        if (told := self._at_once(value)) is not None:
            return told
        pending, opened = [value], set()
        while pending:
            current = pending[-1]
            found, operands = self._found(current)
            unseen = [] if found is not None or current.name in opened else operands
            if unseen:
                opened.add(current.name)
                pending += unseen
            else:
                self._known[current.name] = found
                pending.pop()
        return self._known[value.name]

    def _found(self, value: gs.Tensor) -> tuple[DType | None, Sequence[gs.Tensor]]:
        """Returns the type, if it can be told at once, and the values whose type it has."""
        found = self._at_once(value)
        if found is not None or value.name in self._known or not value.inputs:
            return found, ()
        node = value.inputs[0]
        found = _by_attribute(node) if not has_body(node) else _by_body(node, _place(node, value))
        if found is not None:
            return found, ()
        own, places = _rule(node.op, node.domain or "", self._opset, _place(node, value), len(node.inputs))
        operands = [operand for place in places if (operand := node.inputs[place]).name]
        kinds = (kind for operand in operands if (kind := self._at_once(operand)) is not None)
        return own or next((kind for kind in kinds if not node.domain or kind.name in FLOATS), None), operands

    def _at_once(self, value: gs.Tensor) -> DType | None:
        if value.dtype is None:
            return self._known.get(value.name)
        kind = to_numpy_dtype(value.dtype) if isinstance(value.dtype, int) else value.dtype
        return None if kind is None else np.dtype(kind)


def _place(node: gs.Node, value: gs.Tensor) -> int:
    return next(index for index, output in enumerate(node.outputs) if output is value)


def _by_attribute(node: gs.Node) -> DType | None:
    """The type that an attribute names, as in Cast."""
    if node.domain:
        return None
    named = node.attrs.get(_NAMED_BY.get(node.op, "dtype"))
    kind: DType | None = None
    if isinstance(named, gs.Constant):
        kind = np.dtype(named.dtype)
    elif isinstance(named, int):
        kind = to_numpy_dtype(named)
    return np.dtype(np.float32) if kind is None and node.op == "ConstantOfShape" else kind


def _by_body(node: gs.Node, place: int) -> DType | None:
    """The type that a body of If, Loop or Scan declares of what it gives; a Loop's first is its condition."""
    graph = body_graphs(node)[0][1]
    given = graph.output[place + (node.op == "Loop") :][:1]
    return to_numpy_dtype(given[0].type.tensor_type.elem_type) if given and not node.domain else None


@lru_cache(maxsize=4096)
def _rule(op: str, domain: str, opset: int, place: int, inputs: int) -> tuple[DType | None, tuple[int, ...]]:
    """Returns the type that an operator gives at an output, or the inputs that have the same one.

    An operator of another domain is taken to keep the type of its first float input, as nearly all of them do.
    """
    if domain:
        return None, tuple(range(inputs))
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None, ()
    formal = schema.outputs[min(place, len(schema.outputs) - 1)]
    if not formal.is_homogeneous:
        return None, ()
    own, formals = _only_type(schema, formal.type_str), schema.inputs
    alike = (i for i in range(inputs) if formals[min(i, len(formals) - 1)].type_str == formal.type_str)
    return own, () if own is not None else tuple(alike)


def _only_type(schema: onnx.defs.OpSchema, name: str) -> DType | None:
    """The type of an output that depends on no input, where there is one only: `tensor(int64)`."""
    allowed = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == name), [name])
    text = allowed[0] if len(allowed) == 1 else ""
    if not text.startswith("tensor(") or "string" in text:
        return None
    name = text.removeprefix("tensor(").removesuffix(")")
    return np.dtype(_TEXT.get(name, name))
