"""GELU and its relatives, as an operator or in the parts that exporters write: a region that stays in float."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

from quantonnx.pattern import Pattern, const, either, op, tensor


def _halved(value: Any, gate: Any) -> Any:
    """½ · value · gate, the half at any place."""
    half = const(0.5)
    return either(
        op.Mul(op.Mul(value, gate), half),
        op.Mul(op.Mul(value, half), gate),
        op.Mul(value, op.Mul(gate, half)),
    )


def erf_gelu(value: Any) -> Any:
    """½ · x · (1 + erf(x / √2))."""
    inner = either(op.Div(value, const(sqrt(2))), op.Mul(value, const(1 / sqrt(2))))
    return _halved(value, op.Add(op.Erf(inner), const(1)))


def tanh_gelu(value: Any) -> Any:
    """½ · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), also with x taken out of the bracket."""
    slope, third = const(sqrt(2 / pi)), const(0.044715)
    square = either(op.Mul(value, value), op.Pow(value, const(2)))
    cube = either(op.Pow(value, const(3)), op.Mul(value, square))
    bracket = op.Add(value, op.Mul(cube, third))
    short = op.Add(either(op.Mul(square, third), op.Mul(op.Mul(value, third), value)), const(1))
    inner = either(
        op.Mul(bracket, slope),
        op.Mul(op.Mul(value, slope), short),
        op.Mul(op.Mul(value, short), slope),
    )
    return _halved(value, op.Add(op.Tanh(inner), const(1)))


def gelu(value: Any) -> Any:
    """GELU in every form."""
    return either(op.Gelu(value), erf_gelu(value), tanh_gelu(value))


class Gelu(Pattern):
    """GELU on its own: stays in float, no compiler has an integer kernel of it."""

    x = tensor()
    output = gelu(x)


class QuickGelu(Pattern):
    """x · sigmoid(1.702 · x), the GELU of CLIP: stays in float, no compiler has an integer kernel of it."""

    x = tensor()
    output = op.Mul(x, op.Sigmoid(op.Mul(x, const(1.702))))


class FusedGelu(Pattern):
    """A GELU that ONNX Runtime has fused already: left alone, in float."""

    _names = (
        op("com.microsoft").Gelu
        | op("com.microsoft").BiasGelu
        | op("com.microsoft").FastGelu
        | op("com.microsoft").QuickGelu
    )
    x = tensor()
    output = _names(x, ...)


gelus = (Gelu, QuickGelu, FusedGelu)
