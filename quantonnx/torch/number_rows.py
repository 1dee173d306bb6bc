"""Python numbers in rows: what operators that move data do to them, and which constants are such rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from torch import Tensor

from quantonnx.torch.node import Array
from quantonnx.torch.symbolic import least, most

_LONGEST, _LONGEST_OF_FLOATS = 64, 8


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


def as_matrix(row: Any, _: Any = None, *, columns: int) -> Any:
    """Returns a row cut into rows of that length."""
    return tuple(row[start : start + columns] for start in range(0, len(row), columns))


def flatten(matrix: Any, *_: Any) -> Any:
    """Returns the rows of a matrix one after the other."""
    return concat(*matrix)


def transpose(matrix: Any) -> Any:
    """Returns the columns of a matrix as rows."""
    return tuple(zip(*matrix, strict=True))


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
