"""Shape arithmetic on Python numbers: no tensor is made, nothing waits for a device, and compilers see through it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from quantonnx.torch.node import Kind, Node, NumberCall
from quantonnx.torch.row_operators import ROW_OPERATORS
from quantonnx.torch.symbolic import least, most, sym_float, sym_int

_SPLITTER = 2.0**29 + 1
_FAR = 1e30
_NUDGE = 1e-7


def compute(*values: Any, operation: Callable[..., Any], rounded: bool) -> Any:
    """Returns an operation on numbers, or on each element of rows (some may have one); in float32 if `rounded`."""
    if not any(isinstance(value, tuple) for value in values):
        found = operation(*values)
        return to_float32(found) if rounded else found
    lengths = {len(value) for value in values if isinstance(value, tuple)}
    length = max(lengths - {1}, default=1) if 0 not in lengths else 0
    rows = [_row(value, length) for value in values]
    return tuple(compute(*each, operation=operation, rounded=rounded) for each in zip(*rows, strict=True))


def _row(value: Any, length: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        return (value,) * length
    return value * length if len(value) == 1 else value


def to_float32(value: Any) -> Any:
    """Returns a number as the nearest of 24 bits (Veltkamp's splitting); compilers, to whom sizes are symbols, get it
    as it is."""
    if torch.compiler.is_compiling() or not -_FAR < value < _FAR:
        return value
    high = value * _SPLITTER
    return high - (high - value)


def divide(a: Any, b: Any) -> Any:
    """Returns a ∕ b; of whole numbers without the rest, towards zero."""
    if isinstance(a, float | torch.SymFloat):
        return a / b if b else math.copysign(math.inf, a) if a else math.nan
    if b < 0:
        a, b = -a, -b
    return a // b if a >= 0 else -(-a // b)


def power(a: Any, b: Any) -> Any:
    """Returns a to the power of b, in the type of a."""
    return a**b if isinstance(a, float | torch.SymFloat) else sym_int(a**b)


def square_root(a: Any) -> Any:
    """Returns √a."""
    return a**0.5 if a >= 0 else math.nan


def remainder(a: Any, b: Any, fmod: bool) -> Any:
    """Returns the rest of a ∕ b, with the sign of b, or that of a with `fmod`."""
    return a - b * divide(a, b) if fmod and not isinstance(a, float) else math.fmod(a, b) if fmod else a % b


def nudged(a: Any) -> Any:
    """Returns a number that was not rounded for a compiler so far up that it is not below a whole one that float32
    would have made of it."""
    return a + _NUDGE * abs(a) if torch.compiler.is_compiling() else a


def truncate(a: Any) -> Any:
    """Returns a float as an integer, towards zero."""
    return sym_int(nudged(a))


def floor(a: Any) -> Any:
    """Returns the next whole number below, as a float."""
    return sym_float(math.floor(nudged(a)))


def ceil(a: Any) -> Any:
    """Returns the next whole number above, as a float."""
    return sym_float(math.ceil(-nudged(-a)))


def nearest(a: Any) -> Any:
    """Returns the nearest whole number as a float, the even one of two."""
    return sym_float(round(a))


def choose(condition: Any, a: Any, b: Any) -> Any:
    """Returns a where the condition holds, else b."""
    return a if condition else b


def both(a: Any, b: Any) -> Any:
    """Returns true where both hold."""
    return bool(a and b)


def either(a: Any, b: Any) -> Any:
    """Returns true where one of both holds."""
    return bool(a or b)


def one_only(a: Any, b: Any) -> Any:
    """Returns true where one of both holds and the other does not."""
    return bool(a) != bool(b)


def total(*values: Any) -> Any:
    """Returns the sum of several numbers."""
    return sum(values)


def same(a: Any) -> Any:
    """Returns what it gets."""
    return a


def to_truth(a: Any) -> Any:
    """Returns true for what is not zero."""
    return a != 0


def _elementwise(operation: Callable[..., Any], node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    return _each(operation, kinds, _first(kinds).dtype)


def _compared(operation: Callable[..., Any], node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    return _each(operation, kinds, np.dtype(bool))


def _where(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    return _each(choose, kinds, _first(kinds[1:]).dtype)


def _modulo(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    return _each(partial(remainder, fmod=bool(node.get("fmod", 0))), kinds, _first(kinds).dtype)


def _cast(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    from_float, dtype = _first(kinds).dtype.kind == "f", _CAST_TO.get(int(node.get("to")))
    if dtype is None:
        return None
    if dtype.kind == "b":
        return _each(to_truth, kinds, dtype)
    if dtype.kind == "f":
        return _each(sym_float, kinds, dtype)
    return _each(truncate if from_float else operator.pos, kinds, dtype)


def _each(operation: Callable[..., Any], kinds: list[Kind | None], dtype: np.dtype[Any]) -> NumberCall:
    rank = max(kind.rank for kind in kinds if kind)
    settings = {"operation": operation, "rounded": dtype == np.float32}
    return NumberCall(compute, dtype, rank, settings, _length(kinds))


def _length(kinds: list[Kind | None]) -> int | None:
    """Returns how long a row is to which rows are broadcast."""
    lengths = [kind.length for kind in kinds if kind and kind.rank]
    longer = [length for length in lengths if length != 1]
    return longer[0] if longer else 1 if lengths else None


def _first(kinds: list[Kind | None]) -> Kind:
    return next(kind for kind in kinds if kind)


_CAST_TO: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(bool),
    11: np.dtype(np.float64),
}

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": abs,
    "Add": operator.add,
    "Div": divide,
    "Max": most,
    "Min": least,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Pow": power,
    "Sqrt": square_root,
    "Sub": operator.sub,
    "Sum": total,
    "Floor": floor,
    "Ceil": ceil,
    "Round": nearest,
}

_COMPARED: dict[str, Callable[..., Any]] = {
    "And": both,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Not": operator.not_,
    "Or": either,
    "Xor": one_only,
}

NUMBER_OPERATORS: Mapping[str, Callable[[Node, list[Kind | None]], NumberCall | None]] = MappingProxyType(
    {op: partial(_elementwise, operation) for op, operation in _ELEMENTWISE.items()}
    | {op: partial(_compared, operation) for op, operation in _COMPARED.items()}
    | {"Cast": _cast, "Mod": _modulo, "Where": _where}
    | dict(ROW_OPERATORS)
)
"""By operator: what it does to Python numbers, or None where its result is no number and no row of numbers."""
