"""The pairs of a quantized model as they stand in its graph, each with the real numbers at the ends of its codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.formats import FLOAT8_MAX
from quantonnx.inspecting import constant_of, find_pairs
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.recalibration.numbers import code_type, scale_and_zero_point

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Row:
    """A pair on a computed value, or several of one scale in a row that saturate together.

    `scale` and `zero_point` are those of the last one, `low` and `high` the codes at which all of them end. `result` is
    what DequantizeLinear gives in the end, `readers` the operator inputs that read it, or that move the codes.
    """

    tensor: str
    quantize: gs.Node
    result: gs.Variable
    scale: Array
    zero_point: Array
    low: int
    high: int
    axis: int | None
    readers: tuple[Edge, ...]

    @property
    def ends(self) -> tuple[Array, Array]:
        """The smallest and the largest real number that a code stands for, in the shape of the scale."""
        zero, scale = self.zero_point.astype(np.float64), self.scale.astype(np.float64)
        return (self.low - zero) * scale, (self.high - zero) * scale


def rows_of(model: Model) -> list[Row]:
    """Returns the pairs on computed values whose numbers are constants, in the order of the graph."""
    found = [row for pair in find_pairs(model).activations if (row := _row(model, pair.quantize)) is not None]
    inner = {id(row.quantize) for row in found if _continues(model, row)}
    return [row for row in found if id(row.quantize) not in inner]


def code_limits(dtype: Any) -> tuple[int, int]:
    """Returns the lowest and the highest code of a type; for float8 the numbers that they stand for."""
    name = np.dtype(dtype).name
    if name.startswith("float8"):
        return -FLOAT8_MAX, FLOAT8_MAX
    bits = int("".join(filter(str.isdigit, name)))
    return (0, (1 << bits) - 1) if name.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def along(values: Array, axis: int | None, rank: int) -> Array:
    """Returns numbers of each channel in a shape that broadcasts over a tensor of that rank."""
    if axis is None or values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _row(model: Model, quantize: gs.Node) -> Row | None:
    numbers = _numbers(model, quantize)
    result = _dequantized(quantize)
    if numbers is None or result is None or quantize.attrs.get("block_size"):
        return None
    scale, zero, low, high = numbers
    while (further := _next(model, result, scale)) is not None:
        quantize_next, (_, zero_next, low_next, high_next) = further
        shift = int(zero_next.reshape(-1)[0]) - int(zero.reshape(-1)[0])
        low, high, zero = max(low + shift, low_next), min(high + shift, high_next), zero_next
        result = _dequantized(quantize_next)
        assert result is not None
    axis = int(quantize.attrs.get("axis", 1)) if scale.size > 1 else None
    readers = tuple(_final_readers(result.inputs[0].inputs[0]))
    return Row(str(quantize.inputs[0].name), quantize, result, scale, zero, low, high, axis, readers)


def _numbers(model: Model, quantize: gs.Node) -> tuple[Array, Array, int, int] | None:
    dtype = code_type(model, quantize)
    found = scale_and_zero_point(model, quantize, dtype)
    return None if found is None else (*found, *code_limits(dtype))


def _dequantized(quantize: gs.Node) -> gs.Variable | None:
    codes = quantize.outputs[0]
    return next((reader.outputs[0] for reader in codes.outputs if reader.op == "DequantizeLinear"), None)


def _next(model: Model, value: gs.Variable, scale: Array) -> tuple[gs.Node, tuple[Array, Array, int, int]] | None:
    """The pair that follows at once, with the same scale, as the only reader."""
    readers = list(value.outputs)
    if len(readers) != 1 or readers[0].op != "QuantizeLinear" or _dequantized(readers[0]) is None:
        return None
    numbers = _numbers(model, readers[0])
    return (readers[0], numbers) if numbers is not None and np.array_equal(numbers[0], scale) else None


def _continues(model: Model, row: Row) -> bool:
    """True for a pair that stands behind another one of its scale and saturates with it."""
    before = row.quantize.inputs[0].inputs
    if not before or before[0].op != "DequantizeLinear" or len(row.quantize.inputs[0].outputs) != 1:
        return False
    scale = constant_of(before[0].inputs[1])
    return scale is not None and np.array_equal(model.array(scale), row.scale)


def _final_readers(codes: gs.Tensor) -> Iterator[Edge]:
    """The operator inputs that read codes, or what DequantizeLinear makes of them."""
    for edge, reader in _readers(codes):
        if reader.op == "DequantizeLinear":
            yield from (inner for inner, _ in _readers(reader.outputs[0]))
        else:
            yield edge


def _readers(value: gs.Tensor) -> Iterator[tuple[Edge, gs.Node]]:
    for reader in {id(reader): reader for reader in value.outputs}.values():
        yield from ((Edge(reader.name, index), reader) for index, read in enumerate(reader.inputs) if read is value)
