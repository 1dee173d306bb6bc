"""Operators that compute each element on its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, Unsupported

_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})


@dataclass(frozen=True)
class Widened:
    """A function that computes unsigned types, for which torch has next to nothing, in 64 bits."""

    function: Callable[..., Any]

    def __call__(self, *values: Any, **settings: Any) -> Any:
        """Returns what the function does, in the type that went in."""
        dtype = next((value.dtype for value in values if isinstance(value, Tensor)), None)
        if dtype not in _UNSIGNED:
            return self.function(*values, **settings)
        wide = [value.long() if isinstance(value, Tensor) and value.dtype == dtype else value for value in values]
        found = self.function(*wide, **settings)
        return found.to(dtype) if isinstance(found, Tensor) and found.dtype == torch.int64 else found


def computed_scalars(node: Node) -> frozenset[int]:
    """Returns the inputs that are single Python numbers, where at least one other is a tensor."""
    scalars = {index for index, rank in node.numbers.items() if rank == 0 and index not in node.constants}
    return frozenset(scalars) if len(scalars) < sum(node.given) else frozenset()


def plain(function: Callable[..., Any]) -> Translation:
    """Returns the translation of an operator that is one function of all its inputs."""
    return functools.partial(_translate_plain, function)


def _translate_plain(function: Callable[..., Any], node: Node) -> Call:
    return Call(function)


def arithmetic(function: Callable[..., Any]) -> Translation:
    """Returns the translation of an operator on numbers of any type, one of which may be a size."""
    return functools.partial(_translate_arithmetic, Widened(function))


def _translate_arithmetic(function: Callable[..., Any], node: Node) -> Call:
    return Call(function, scalars=computed_scalars(node))


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Returns a ∕ b; of integers without the rest, towards zero."""
    whole = not (a if isinstance(a, Tensor) else b).is_floating_point()
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def power(base: Tensor, exponent: Any) -> Tensor:
    """Returns base to the power of an exponent of any type, in the type of the base."""
    return torch.pow(base, exponent).to(base.dtype)


def minimum(*values: Tensor) -> Tensor:
    """Returns the smallest of several values, element by element."""
    return functools.reduce(torch.minimum, values)


def maximum(*values: Tensor) -> Tensor:
    """Returns the largest of several values, element by element."""
    return functools.reduce(torch.maximum, values)


def total(*values: Tensor) -> Tensor:
    """Returns the sum of several values, element by element."""
    return functools.reduce(torch.add, values)


def average(*values: Tensor) -> Tensor:
    """Returns the mean of several values, element by element."""
    return total(*values) / len(values)


def absolute(x: Tensor) -> Tensor:
    """Returns |x|; integers without a sign as they are."""
    return x if x.dtype in _UNSIGNED else torch.abs(x)


def is_infinite(x: Tensor, negative: bool, positive: bool) -> Tensor:
    """Returns where x is infinite, of the asked signs."""
    found = torch.isinf(x)
    if negative and positive:
        return found
    return found & (x < 0) if negative else found & (x > 0) if positive else torch.zeros_like(found)


def where(condition: Tensor, a: Any, b: Any) -> Tensor:
    """Returns a where the condition holds, else b."""
    return torch.where(condition, a, b)


def shift_left(x: Tensor, bits: Tensor) -> Tensor:
    """Returns x · 2^bits."""
    return torch.bitwise_left_shift(x, bits)


def shift_right(x: Tensor, bits: Tensor) -> Tensor:
    """Returns x ∕ 2^bits, without the rest."""
    return torch.bitwise_right_shift(x, bits)


def _modulo(node: Node) -> Call:
    return Call(Widened(torch.fmod if node.get("fmod", 0) else torch.remainder), scalars=computed_scalars(node))


def _power(node: Node) -> Call:
    return Call(Widened(power), scalars=frozenset({1}))


def _is_infinite(node: Node) -> Call:
    signs = {"negative": bool(node.get("detect_negative", 1)), "positive": bool(node.get("detect_positive", 1))}
    return Call(is_infinite, settings=signs)


def _shift(node: Node) -> Call:
    direction = node.get("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise Unsupported(f"direction {direction!r}")
    return Call(Widened(shift_left if direction == "LEFT" else shift_right))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": absolute,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Xor": torch.logical_xor,
}

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "BitwiseNot": torch.bitwise_not,
    "Div": divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Max": maximum,
    "Mean": average,
    "Min": minimum,
    "Mul": torch.mul,
    "Sub": torch.sub,
    "Sum": total,
}

OPERATORS: dict[str, Translation] = {
    **{op: plain(function) for op, function in _FUNCTIONS.items()},
    **{op: arithmetic(function) for op, function in _ARITHMETIC.items()},
    "BitShift": _shift,
    "IsInf": _is_infinite,
    "Mod": _modulo,
    "Pow": _power,
    "Where": plain(where),
}
