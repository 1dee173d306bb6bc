"""Nodes that are not what their operator's schema says: a list for an axis, no operands. No runtime takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto

from quantonnx.errors import ModelError

_NAMES = {value: name for name, value in AttributeProto.AttributeType.items()}
_AGAIN = "export the model again"


@dataclass(frozen=True)
class _Rules:
    """The kind of each attribute, and how many inputs and outputs there may be."""

    attributes: Mapping[str, int]
    inputs: range
    outputs: range


def refuse_unlike_schema(node: NodeProto, name: str, opset: int) -> None:
    """Raises ModelError for a node of a standard operator with too few or too many operands, or an attribute of another
    kind; operators and versions that onnx does not know pass."""
    rules = _rules(node.op_type, opset)
    if rules is None:
        return
    for what, given, allowed in (("inputs", node.input, rules.inputs), ("outputs", node.output, rules.outputs)):
        if len(given) not in allowed:
            expected = f"{allowed.start} to {allowed.stop - 1}" if len(allowed) > 1 else str(allowed.start)
            raise ModelError(f"{node.op_type} {name!r} has {len(given)} {what}, expected {expected}", _AGAIN)
    for attribute in node.attribute:
        wanted = rules.attributes.get(attribute.name, attribute.type)
        if attribute.type != wanted and not attribute.ref_attr_name:
            found = _NAMES.get(attribute.type, str(attribute.type))
            raise ModelError(f"attribute {attribute.name!r} of {name!r} is {found}, expected {_NAMES[wanted]}", _AGAIN)


@cache
def _rules(op: str, opset: int) -> _Rules | None:
    try:
        schema: Any = onnx.defs.get_schema(op, opset, "")
    except Exception:  # an operator, or a version, that onnx does not know
        return None
    if schema.deprecated:
        return None
    kinds = {name: int(attribute.type) for name, attribute in schema.attributes.items()}
    inputs, outputs = range(schema.min_input, schema.max_input + 1), range(schema.min_output, schema.max_output + 1)
    return _Rules(kinds, inputs, outputs)
