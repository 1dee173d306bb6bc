"""Python numbers in rows: what operators that move data do to them, and which constants are such rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np
import onnx_graphsurgeon as gs
from torch import Tensor

from quantonnx.torch.node import Array, Kind, Node, NumberCall
from quantonnx.torch.symbolic import least, most

_LONGEST, _LONGEST_OF_FLOATS = 64, 8
_AXES_AS_INPUT, _SLICE_AS_INPUT = 13, 10


def fits_numbers(constant: gs.Constant, *, floats: bool) -> bool:
    """True for a few whole numbers or truth values, and for one float, or some with `floats`."""
    dtype, rank, size = np.dtype(constant.dtype), len(constant.shape), math.prod(constant.shape)
    if dtype.name == "float32":
        return rank == 0 or (floats and rank == 1 and size <= _LONGEST_OF_FLOATS)
    return dtype.kind in "bi" and rank <= 1 and size <= _LONGEST


def from_array(values: Array) -> Any:
    """Returns the number, or the tuple of numbers, in an array."""
    return tuple(values.tolist()) if values.ndim else values.item()


def sizes_of(value: Tensor, start: int = 0, end: int | None = None, count: bool = False) -> Any:
    """Returns the sizes of a tensor as a tuple, or the number of its elements."""
    return value.numel() if count else tuple(value.shape)[start:end]


def sizes_of_numbers(value: Any, start: int = 0, end: int | None = None, count: bool = False) -> Any:
    """Returns the shape of a number or of a row of numbers, or how many there are."""
    shape = (len(value),) if isinstance(value, tuple) else ()
    return math.prod(shape) if count else shape[start:end]


def gather(numbers: Any, indices: Any) -> Any:
    """Returns the numbers at these places of a row."""
    return tuple(numbers[i] for i in indices) if isinstance(indices, tuple) else numbers[indices]


def concat(*numbers: Any) -> Any:
    """Returns rows one after the other."""
    return tuple(number for each in numbers for number in each)


def as_row(number: Any, *_: Any) -> Any:
    """Returns a number as a row."""
    return number if isinstance(number, tuple) else (number,)


def as_number(row: Any, *_: Any) -> Any:
    """Returns the number of a row of one."""
    return row[0] if isinstance(row, tuple) else row


def unchanged(number: Any, *_: Any) -> Any:
    """Returns what it gets."""
    return number


def take_range(row: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """Returns a part of a row."""
    step = as_number(steps) if steps is not None else None
    return row[slice(as_number(starts), as_number(ends), step)]


def split(row: Any, sizes: Any = None, *, count: int) -> Any:
    """Returns pieces of a row; a single one as it is."""
    if sizes is None:
        size = -(-len(row) // count)
        sizes = [size] * (count - 1) + [len(row) - size * (count - 1)]
    pieces, start = [], 0
    for size in sizes:
        pieces.append(row[start : start + size])
        start += size
    return pieces[0] if count == 1 else tuple(pieces)


def reduce(row: Any, *_: Any, reduction: Callable[[Any], Any], kept: bool) -> Any:
    """Returns one number for a row: as a row of one if `kept`."""
    found = reduction(as_row(row))
    return (found,) if kept else found


def multiply(row: Any) -> Any:
    """Returns the product of a row."""
    found = 1
    for number in row:
        found = found * number
    return found


def add_up(row: Any) -> Any:
    """Returns the sum of a row."""
    return sum(row)


def largest(row: Any) -> Any:
    """Returns the largest of a row."""
    return most(*row)


def smallest(row: Any) -> Any:
    """Returns the smallest of a row."""
    return least(*row)


def filled(shape: Any, value: Any) -> Any:
    """Returns one number as often as a shape of one axis says."""
    return (value,) * shape[0] if shape else value


def expand(row: Any, shape: Any) -> Any:
    """Returns a number as often as a shape of one axis says; a longer row as it is."""
    row = as_row(row) if shape else row
    return row * shape[0] if shape and len(row) == 1 else row


def tile(row: Any, repeats: Any) -> Any:
    """Returns a row that often."""
    return row * as_number(repeats)


def number_range(start: Any, limit: Any, delta: Any) -> Any:
    """Returns the whole numbers from `start` to before `limit`."""
    return tuple(range(start, limit, delta))


def _gather(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    values, indices = kinds[0], kinds[1]
    if values is None or indices is None or values.rank != 1:
        return None
    return NumberCall(gather, values.dtype, indices.rank)


def _concat(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    return NumberCall(concat, first.dtype, 1) if first and all(kind and kind.rank == 1 for kind in kinds) else None


def _unsqueeze(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    axes = node.get("axes") if node.opset < _AXES_AS_INPUT else node.constants.get(1)
    single = axes is not None and np.size(axes) == 1
    return NumberCall(as_row, first.dtype, 1) if first and not first.rank and single else None


def _squeeze(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    axes = node.get("axes") if node.opset < _AXES_AS_INPUT else node.constants.get(1)
    return NumberCall(as_number, first.dtype, 0) if first and first.rank and axes is not None else None


def _reshape(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, shape = kinds[0], kinds[1]
    if first is None or shape is None or not isinstance(shape.literal, tuple) or len(shape.literal) > 1:
        return None
    return NumberCall(as_row if shape.literal else as_number, first.dtype, len(shape.literal))


def _slice(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    if first is None or first.rank != 1:
        return None
    if node.opset >= _SLICE_AS_INPUT:
        return NumberCall(take_range, first.dtype, 1)
    return NumberCall(take_range, first.dtype, 1, {name: tuple(node.get(name)) for name in ("starts", "ends")})


def _split(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    if first is None or first.rank != 1:
        return None
    settings: dict[str, Any] = {"count": len(node.wanted)}
    if node.opset < _AXES_AS_INPUT and node.get("split"):
        settings["sizes"] = tuple(node.get("split"))
    return NumberCall(split, first.dtype, 1, settings)


def _same(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    return NumberCall(unchanged, first.dtype, first.rank) if first else None


def _reduce(reduction: Callable[[Any], Any], node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, kept = kinds[0], bool(node.get("keepdims", 1))
    if first is None or first.rank != 1 or node.get("noop_with_empty_axes", 0):
        return None
    return NumberCall(reduce, first.dtype, int(kept), {"reduction": reduction, "kept": kept})


def _filled(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    shape = kinds[0].literal if kinds[0] else None
    value = np.asarray(node.get("value", np.zeros(1, np.float32)))
    if not _is_short(shape) or (value.dtype.kind not in "bi" and value.dtype != np.float32):
        return None
    return NumberCall(filled, value.dtype, len(shape), {"value": value.reshape(-1)[0].item()})


def _is_short(shape: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(shape, tuple) and len(shape) <= 1 and math.prod(shape) <= _LONGEST


def _expand(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, shape = kinds[0], kinds[1].literal if kinds[1] else None
    if first is None or not _is_short(shape):
        return None
    return NumberCall(expand, first.dtype, max(first.rank, len(shape)))


def _tile(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, repeats = kinds[0], kinds[1].literal if kinds[1] else None
    return NumberCall(tile, first.dtype, 1) if first and first.rank == 1 and _is_short(repeats) else None


def _range(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    limits = [kind.literal for kind in kinds if kind]
    if not all(isinstance(limit, int) for limit in limits) or not limits[2] or len(range(*limits)) > _LONGEST:
        return None
    return NumberCall(number_range, kinds[0].dtype, 1) if kinds[0] else None


ROW_OPERATORS: Mapping[str, Callable[[Node, list[Kind | None]], NumberCall | None]] = MappingProxyType(
    {
        "Concat": _concat,
        "ConstantOfShape": _filled,
        "Expand": _expand,
        "Gather": _gather,
        "Identity": _same,
        "Range": _range,
        "ReduceMax": partial(_reduce, largest),
        "ReduceMin": partial(_reduce, smallest),
        "ReduceProd": partial(_reduce, multiply),
        "ReduceSum": partial(_reduce, add_up),
        "Reshape": _reshape,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _same,
        "Unsqueeze": _unsqueeze,
    }
)
"""By operator: what it does to rows of numbers, or None where its result is neither a number nor a row."""
