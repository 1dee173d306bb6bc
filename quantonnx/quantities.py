"""What a file says about each value that it quantizes: format, scale, zero point, codes, and what reads the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.inspecting import Pair, QuantizedConstant, constant_of, find_pairs, zero_point
from quantonnx.model import Model
from quantonnx.weights import to_numpy_dtype

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Quantity:
    """One quantized value: `scale` and `zero_point` flat, None where they are computed; `stored` holds its codes.

    `kind` is activation, weight or bias, `slot` where it is first read, `readers` the types of all operators that read
    it, in alphabetical order.
    """

    kind: str
    name: str
    slot: str
    format: str
    scale: Array | None
    zero_point: Array | None
    readers: tuple[str, ...]
    stored: gs.Constant | None = None


def quantities(model: Model) -> list[Quantity]:
    """Returns the quantized values of a model, in the order of its nodes; a second pair on a value is `name (2)`."""
    pairs = find_pairs(model)
    found = [*_activations(model, pairs.activations), *_constants(model, pairs.constants)]
    return list(_numbered(found))


def _activations(model: Model, pairs: tuple[Pair, ...]) -> Iterator[Quantity]:
    public = {output.name for output in model.graph.outputs}
    for pair in pairs:
        name = pair.tensor
        if name.removesuffix("_float") in public:
            name = name.removesuffix("_float")
        ends = [node.outputs[0] for node in pair.dequantize]
        yield _quantity(model, "activation", name, pair.quantize, _code_type(model, pair.quantize), ends)


def _constants(model: Model, constants: tuple[QuantizedConstant, ...]) -> Iterator[Quantity]:
    for item in constants:
        kind, name = "bias" if item.is_bias else "weight", str(item.stored.name)
        codes = np.dtype(item.stored.dtype).name
        if codes.startswith(("float", "bfloat")) and not codes.startswith("float8"):
            codes = f"{_code_type(model, item.node)}, stored as {codes}"
        yield _quantity(
            model, kind, name.removesuffix("_quantized"), item.node, codes, item.node.outputs[:1], item.stored
        )


def _quantity(
    model: Model,
    kind: str,
    name: str,
    node: gs.Node,
    codes: str,
    ends: list[gs.Tensor],
    stored: gs.Constant | None = None,
) -> Quantity:
    scale, zero = constant_of(node.inputs[1]), zero_point(model, node)
    values = None if scale is None else model.array(scale)
    readers = [reader for end in ends for reader in end.outputs]
    operators = sorted(reader.op for reader in readers) or ["output"]
    return Quantity(
        kind,
        name,
        _slot(ends),
        f"{codes} {_granularity(node, values)}",
        None if values is None else values.astype(np.float64).reshape(-1),
        None if zero is None else zero.astype(np.float64).reshape(-1),
        tuple(operators),
        stored,
    )


def _granularity(node: gs.Node, scale: Array | None) -> str:
    if scale is None:
        return "computed scale"
    if node.attrs.get("block_size"):
        return f"per {node.attrs['block_size']} along axis {node.attrs.get('axis', 1)}"
    return f"per channel of axis {node.attrs.get('axis', 1)}" if scale.ndim and scale.size > 1 else "per tensor"


def _slot(ends: list[gs.Tensor]) -> str:
    """Where a value is first read, in the name of what its reader gives."""
    for end in ends:
        for reader in end.outputs[:1]:
            index = next(i for i, value in enumerate(reader.inputs) if value is end)
            return f"{reader.outputs[0].name}[{index}]"
    return ""


def _code_type(model: Model, node: gs.Node) -> str:
    """The type of the codes: that of the zero point, else the attribute's, else uint8."""
    if len(node.inputs) > 2 and node.inputs[2].name:
        stored = constant_of(node.inputs[2])
        return "unknown" if stored is None else np.dtype(stored.dtype).name
    return np.dtype(to_numpy_dtype(node.attrs.get("output_dtype") or TensorProto.UINT8)).name


def _numbered(found: list[Quantity]) -> Iterator[Quantity]:
    seen: dict[tuple[str, str], int] = {}
    for item in found:
        key = item.kind, item.name
        seen[key] = seen.get(key, 0) + 1
        name = item.name if seen[key] == 1 else f"{item.name} ({seen[key]})"
        yield Quantity(**{**vars(item), "name": name})
