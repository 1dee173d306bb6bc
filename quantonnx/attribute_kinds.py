"""Attributes that are of another kind than their operator has, such as a list for an axis: no runtime takes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto

from quantonnx.errors import ModelError

_NAMES = {value: name for name, value in AttributeProto.AttributeType.items()}


def refuse_other_kinds(node: NodeProto, name: str, opset: int) -> None:
    """Raises ModelError for an attribute of a standard operator that is not of the kind that its schema says."""
    known = _kinds(node.op_type, opset)
    for attribute in node.attribute:
        expected = known.get(attribute.name, attribute.type)
        if attribute.type != expected and not attribute.ref_attr_name:
            found = _NAMES.get(attribute.type, str(attribute.type))
            raise ModelError(
                f"attribute {attribute.name!r} of {name!r} is {found}, expected {_NAMES[expected]}",
                "export the model again",
            )


@cache
def _kinds(op: str, opset: int) -> Mapping[str, int]:
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except Exception:  # an operator, or a version, that onnx does not know
        return {}
    attributes: Mapping[str, Any] = schema.attributes  # onnx's stubs do not say that a type is a number
    return {name: int(attribute.type) for name, attribute in attributes.items()}
