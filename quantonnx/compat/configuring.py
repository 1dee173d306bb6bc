"""Encodings as rules of our configuration: fixed numbers for activations, formats for constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from quantonnx.compat.encodings import Array, Encoding
from quantonnx.decisions import Decision

_MOST_BITS = 16


def to_config(encodings: Iterable[Encoding]) -> tuple[dict[str, Any], tuple[Decision, ...]]:
    """Returns a configuration with a rule for each tensor, and what it does not say, with the reason.

    Every rule is optional: fusion may have taken a tensor away. Scales per channel are left to be computed from the
    weight; codes of more than 16 bits, those of biases, and tensors in float get no rule.
    """
    rules: dict[str, Any] = {}
    left: list[Decision] = []
    for encoding in encodings:
        if reason := _no_rule(encoding):
            left.append(Decision(encoding.name, reason))
        else:
            rules[encoding.name] = _format(encoding) | _numbers(encoding, left) | {"optional": True}
    return {"tensors": rules}, tuple(left)


def _no_rule(encoding: Encoding) -> str:
    if encoding.floating:
        return "" if encoding.n_bits == 8 else "it stays in float"
    if encoding.n_bits is not None and encoding.n_bits > _MOST_BITS:
        return f"it has {encoding.n_bits} bits, as biases have: their scale is derived"
    if encoding.only_zeros:
        return "its range is 0: calibration saw only zeros"
    return "its scale is below the normal numbers of float32" if _is_tiny(encoding) else ""


def _is_tiny(encoding: Encoding) -> bool:
    return encoding.scale is not None and bool((encoding.scale < np.finfo(np.float32).tiny).any())


def _format(encoding: Encoding) -> dict[str, Any]:
    if encoding.floating:
        return {"dtype": "float8e4m3fn"}
    said = {"n_bits": encoding.n_bits, "signed": encoding.signed, "symmetric": encoding.symmetric}
    rule = {key: value for key, value in said.items() if value is not None}
    return rule | ({"narrow_range": True} if encoding.narrow_range else {})


def _numbers(encoding: Encoding, left: list[Decision]) -> dict[str, Any]:
    if encoding.per_tensor and not encoding.parameter:
        return _fixed(encoding)
    if encoding.scale is not None or encoding.low is not None:
        left.append(Decision(encoding.name, "a constant, whose scales are computed from its values"))
    return _granularity(encoding)


def _fixed(encoding: Encoding) -> dict[str, Any]:
    if encoding.scale is not None and encoding.zero_point is not None:
        return {"scale": _shortest(encoding.scale), "zero_point": int(encoding.zero_point)}
    if encoding.low is not None and encoding.high is not None:
        ends = [_shortest(encoding.low), _shortest(encoding.high)]
        return {"range": ends if ends[0] < ends[1] else [min(ends[0], 0.0), max(ends[1], 0.0)]}
    return {}


def _granularity(encoding: Encoding) -> dict[str, Any]:
    axis = {} if encoding.axis is None else {"axis": encoding.axis}
    if encoding.block_size is not None:
        return {"group_size": encoding.block_size, **axis}
    return {"per_channel": not encoding.per_tensor, **axis}


def _shortest(value: Array) -> float:
    """Returns the number with the fewest digits that is the same in float32, where it is one of float32."""
    exact = float(value)
    with np.errstate(over="ignore"):
        single = np.float32(exact)
    return float(str(single)) if float(single) == exact else exact
