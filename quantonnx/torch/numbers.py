"""Shape arithmetic on Python numbers: no tensor is made, nothing waits for a device, and compilers see through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from torch import Tensor

from quantonnx.torch.node import Array, Node, NumberCall

Kind = tuple[np.dtype[Any], int]
"""The type and rank of operands."""

_LONGEST = 64


def fits_numbers(constant: gs.Constant) -> bool:
    """True for a few whole numbers or truth values, and for one float."""
    dtype, size = np.dtype(constant.dtype), math.prod(constant.shape)
    if dtype.name == "float32":
        return len(constant.shape) == 0
    return dtype.kind in "bi" and len(constant.shape) <= 1 and size <= _LONGEST


def from_array(values: Array) -> Any:
    """Returns the number, or the tuple of numbers, in an array."""
    return tuple(values.tolist()) if values.ndim else values.item()


def sizes_of(value: Tensor, start: int = 0, end: int | None = None, count: bool = False) -> Any:
    """Returns the sizes of a tensor as a tuple, or the number of its elements."""
    return value.numel() if count else tuple(value.shape)[start:end]


def _gather(numbers: Any, indices: Any) -> Any:
    return tuple(numbers[i] for i in indices) if isinstance(indices, tuple) else numbers[indices]


def _concat(*numbers: Any) -> Any:
    return tuple(number for each in numbers for number in each)


def _as_tuple(number: Any, *_: Any) -> Any:
    return number if isinstance(number, tuple) else (number,)


def _translate_gather(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    values, indices = kinds[0], kinds[1]
    if values is None or indices is None or values[1] != 1:
        return None
    return NumberCall(_gather, values[0], indices[1])


def _translate_concat(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    return NumberCall(_concat, first[0], 1) if first and all(kind and kind[1] == 1 for kind in kinds) else None


def _translate_unsqueeze(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    axes = node.get("axes") or node.constant(1)
    return NumberCall(_as_tuple, first[0], 1) if first and not first[1] and len(axes) == 1 else None


NUMBER_OPERATORS: Mapping[str, Callable[[Node, list[Kind | None]], NumberCall | None]] = MappingProxyType(
    {"Gather": _translate_gather, "Concat": _translate_concat, "Unsqueeze": _translate_unsqueeze}
)
"""By operator: what it does to Python numbers, or None where its result is no number and no row of numbers."""
