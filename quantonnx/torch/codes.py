"""Quantized codes on their way: as floats through what only moves them, so that gradients pass, else as integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quantonnx.torch.node import Call

_ALL = "all"
_FIRST = "first"
_MOVING = {
    **dict.fromkeys(("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"), _FIRST),
    **dict.fromkeys(("MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Tile"), _FIRST),
    **dict.fromkeys(("Split", "Transpose", "Unsqueeze"), _FIRST),
    "Concat": _ALL,
}
"""Operators that put their first input, or all of them, elsewhere and do not change a value."""


def passing_codes(op: str, call: Call, codes: Sequence[torch.dtype | None]) -> Call:
    """Returns the call of an operator for inputs of which some are codes as floats, of these types."""
    if op == "Cast":
        return replace(call, takes_codes=True)
    moved = list(codes if _MOVING.get(op) == _ALL else codes[:1]) if op in _MOVING else []
    if not moved or moved[0] is None or len(set(moved)) > 1:
        return call
    return replace(call, takes_codes=True, gives_codes=moved[0])


def coded(op: str, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the outputs that are codes, of an operator that gives such."""
    return outputs if op == "Split" else outputs[:1]


def as_integers(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns codes, which are whole numbers as floats, in their own type."""
    return values.to(dtype)
