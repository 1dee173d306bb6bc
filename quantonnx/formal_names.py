"""The names that ONNX's specification gives the inputs and outputs of operators: `X` and `W` of a Conv."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_graphsurgeon as gs


def formal_name(node: gs.Node, index: int, *, inputs: bool, opset: int) -> tuple[str, ...]:
    """Returns the name of an operator's input or output, as a tuple that is empty for operators ONNX does not have.

    The values of a variadic operator share one name.
    """
    names = _names(node.op, node.domain or "", inputs, opset)
    return names[min(index, len(names) - 1) :][:1]


@cache
def _names(op: str, domain: str, inputs: bool, opset: int) -> tuple[str, ...]:
    try:
        schema = onnx.defs.get_schema(op, opset if not domain else 1, domain)
    except onnx.defs.SchemaError:
        return ()
    return tuple(parameter.name for parameter in (schema.inputs if inputs else schema.outputs))
