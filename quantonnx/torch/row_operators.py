"""Which operators that move data can work on Python numbers, and what is known of the rows that they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np

from quantonnx.torch import number_rows as rows
from quantonnx.torch.node import Kind, Node, NumberCall

_LONGEST = 64
_AXES_AS_INPUT, _SLICE_AS_INPUT = 13, 10


def _gather(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    values, indices = kinds[0], kinds[1]
    if values is None or indices is None or values.rank != 1:
        return None
    return NumberCall(rows.gather, values.dtype, indices.rank, length=indices.length)


def _concat(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    if first is None or not all(kind and kind.rank == 1 for kind in kinds):
        return None
    lengths = [kind.length for kind in kinds if kind and kind.length is not None]
    return NumberCall(rows.concat, first.dtype, 1, length=sum(lengths) if len(lengths) == len(kinds) else None)


def _unsqueeze(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    axes = node.get("axes") if node.opset < _AXES_AS_INPUT else node.constants.get(1)
    single = axes is not None and np.size(axes) == 1
    return NumberCall(rows.as_row, first.dtype, 1, length=1) if first and not first.rank and single else None


def _squeeze(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    axes = node.get("axes") if node.opset < _AXES_AS_INPUT else node.constants.get(1)
    single = first is not None and first.rank == 1 and (axes is not None or first.length == 1)
    return NumberCall(rows.as_number, first.dtype, 0) if first and single else None


def _reshape(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, shape = kinds[0], kinds[1]
    if first is None or shape is None or not isinstance(shape.literal, tuple) or len(shape.literal) > 2:
        return None
    if len(shape.literal) == 2:
        settings = {"columns": shape.literal[1]}
        return NumberCall(rows.as_matrix, first.dtype, 2, settings) if _is_paired(first, shape) else None
    flat = rows.flatten if first.rank == 2 else rows.as_row
    return NumberCall(flat if shape.literal else rows.as_number, first.dtype, len(shape.literal), length=first.length)


def _is_paired(row: Kind, shape: Kind) -> bool:
    return row.rank == 1 and shape.literal[0] == -1 and shape.literal[1] > 0


def _slice(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    if first is None or not first.rank:
        return None
    if node.opset < _SLICE_AS_INPUT:
        settings = {name: tuple(node.get(name)) for name in ("starts", "ends")}
        return NumberCall(rows.take_range, first.dtype, 1, settings) if first.rank == 1 else None
    axes = kinds[3].literal if len(kinds) > 3 and kinds[3] else (0,)
    if first.rank == 2 and axes not in ((0,), (-2,)):
        return None
    return NumberCall(rows.take_range, first.dtype, first.rank, length=_range_length(first, kinds))


def _range_length(row: Kind, kinds: list[Kind | None]) -> int | None:
    start, end = (kind.literal if kind else None for kind in (kinds[1], kinds[2]))
    step = kinds[4].literal if len(kinds) > 4 and kinds[4] else (1,)
    if row.length is None or None in (start, end, step):
        return None
    return len(rows.take_range((0,) * row.length, start, end, None, step))


def _transpose(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    turned = tuple(node.get("perm", (1, 0))) == (1, 0)
    if first is None or first.rank < 2 or not turned:
        return _same(node, kinds)
    return NumberCall(rows.transpose, first.dtype, 2)


def _split(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    if first is None or first.rank != 1:
        return None
    settings: dict[str, Any] = {"count": len(node.wanted)}
    if node.opset < _AXES_AS_INPUT and node.get("split"):
        settings["sizes"] = tuple(node.get("split"))
    return NumberCall(rows.split, first.dtype, 1, settings)


def _same(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first = kinds[0]
    return NumberCall(rows.unchanged, first.dtype, first.rank, length=first.length) if first else None


def _reduce(reduction: Callable[[Any], Any], node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, kept = kinds[0], bool(node.get("keepdims", 1))
    if first is None or first.rank != 1 or node.get("noop_with_empty_axes", 0):
        return None
    return NumberCall(rows.reduce, first.dtype, int(kept), {"reduction": reduction, "kept": kept})


def _filled(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    shape = kinds[0].literal if kinds[0] else None
    value = np.asarray(node.get("value", np.zeros(1, np.float32)))
    if not _is_short(shape) or (value.dtype.kind not in "bi" and value.dtype != np.float32):
        return None
    settings = {"value": value.reshape(-1)[0].item()}
    return NumberCall(rows.filled, value.dtype, len(shape), settings, shape[0] if shape else None)


def _is_short(shape: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(shape, tuple) and len(shape) <= 1 and math.prod(shape) <= _LONGEST


def _expand(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, shape = kinds[0], kinds[1].literal if kinds[1] else None
    if first is None or first.rank > 1 or not _is_short(shape):
        return None
    return NumberCall(rows.expand, first.dtype, max(first.rank, len(shape)))


def _tile(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    first, repeats = kinds[0], kinds[1].literal if kinds[1] else None
    return NumberCall(rows.tile, first.dtype, 1) if first and first.rank == 1 and _is_short(repeats) else None


def _range(node: Node, kinds: list[Kind | None]) -> NumberCall | None:
    limits = [kind.literal for kind in kinds if kind]
    if not all(isinstance(limit, int) for limit in limits) or not limits[2] or len(range(*limits)) > _LONGEST:
        return None
    return NumberCall(rows.number_range, kinds[0].dtype, 1) if kinds[0] else None


ROW_OPERATORS: Mapping[str, Callable[[Node, list[Kind | None]], NumberCall | None]] = MappingProxyType(
    {
        "Concat": _concat,
        "ConstantOfShape": _filled,
        "Expand": _expand,
        "Gather": _gather,
        "Identity": _same,
        "Range": _range,
        "ReduceMax": partial(_reduce, rows.largest),
        "ReduceMin": partial(_reduce, rows.smallest),
        "ReduceProd": partial(_reduce, rows.multiply),
        "ReduceSum": partial(_reduce, rows.add_up),
        "Reshape": _reshape,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
"""By operator: what it does to rows of numbers, or None where its result is neither a number nor a row."""
