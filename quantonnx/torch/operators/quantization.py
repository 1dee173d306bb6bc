"""Q/DQ pairs as the file has them, with straight-through gradients: codes pass from Q to DQ as floats."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quantonnx.torch.dtypes import torch_dtype
from quantonnx.torch.node import Call, Node, Translation, Unsupported
from quantonnx.weights import to_numpy_dtype

_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {f"int{bits}": (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) for bits in (2, 4, 8, 16, 32)}
    | {f"uint{bits}": (0.0, 2.0**bits - 1) for bits in (2, 4, 8, 16)}
)
_NARROW = {"int2": torch.int8, "int4": torch.int8, "uint2": torch.uint8, "uint4": torch.uint8}
_FLOAT8 = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
}


class _Rounded(Function):
    """Half to even, with the gradient passing as if nothing had been done."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str) -> Tensor:
        if kind in _FLOAT8:
            return x.to(_FLOAT8[kind]).to(x.dtype)
        if kind == "float4_e2m1fn":
            steps = torch.exp2(x.abs().clamp(1, 4).log2().floor() - 1)
            return (x / steps).round() * steps
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


def rounded(x: Tensor, kind: str = "int8") -> Tensor:
    """Returns x rounded to whole numbers, or to a float of few bits, with a straight-through gradient."""
    result: Tensor = _Rounded.apply(x, kind)  # type: ignore[no-untyped-call]
    return result


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    kind: str,
    axis: int = 1,
    block: int = 0,
    saturate: bool = True,
) -> Tensor:
    """Returns codes as floats: those of x over its scale, rounded and shifted by the zero point.

    The gradient passes where no value is clipped, to the scale too.
    """
    wide = torch.promote_types(torch.float32, scale.dtype)
    values = x.to(wide) / spread(scale.to(wide), x, axis, block)
    if kind in _FLOAT8:
        most = torch.finfo(_FLOAT8[kind]).max
        return rounded(values.clamp(-most, most) if saturate else values, kind)
    if kind == "float4_e2m1fn":
        return rounded(values.clamp(-6, 6), kind)
    codes = rounded(values)
    if zero_point is not None:
        codes = codes + spread(zero_point.to(wide), x, axis, block)
    return codes.clamp(*_RANGES[kind])


def dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int = 1,
    block: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Returns the values that codes, integers or floats, stand for; of the type of the scale unless told."""
    wide = torch.promote_types(torch.float32, scale.dtype)
    values = x.to(wide)
    if zero_point is not None:
        values = values - spread(zero_point.to(wide), x, axis, block)
    return (values * spread(scale.to(wide), x, axis, block)).to(dtype or scale.dtype)


def spread(values: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """Returns the numbers of a tensor, of an axis, or of the blocks along one, so that they broadcast with x."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return values.reshape(-1, *(1,) * (x.ndim - axis % x.ndim - 1))


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns uint8 codes as floats, the scale, and the zero point, of the range of x with zero in it."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = torch.where(high == low, 1, (high - low) / 255)
    zero_point = (-low / scale).round().clamp(0, 255).detach()
    return (rounded(x / scale) + zero_point).clamp(0, 255), scale, zero_point.to(torch.uint8)


def code_type(node: Node, place: int) -> tuple[str, torch.dtype | None]:
    """Returns the name of the type of codes, told by a zero point or an attribute, and torch's type for them if they
    are integers.

    Raises Unsupported.
    """
    dtype = node.type_of(place) if node.has(place) else None
    if dtype is None and node.get("output_dtype"):
        dtype = to_numpy_dtype(node.get("output_dtype"))
    if dtype is None and node.has(place):
        raise Unsupported("the type of its zero point is unknown")
    kind = "uint8" if dtype is None else str(dtype.name)
    if kind == "float4_e2m1fn" or kind in _FLOAT8:
        return kind, None
    if dtype is not None and kind not in _RANGES:
        raise Unsupported(f"codes of type {kind}")
    return kind, _NARROW.get(kind) or (torch.uint8 if dtype is None else torch_dtype(dtype))


def _placing(node: Node) -> dict[str, Any]:
    return {"axis": node.get("axis", 1), "block": node.get("block_size", 0)}


def _quantize(node: Node) -> Call:
    kind, dtype = code_type(node, 2)
    settings = _placing(node) | {"kind": kind, "saturate": bool(node.get("saturate", 1))}
    return Call(quantize, (0, 1, 2), settings, gives_codes=dtype)


def _dequantize(node: Node) -> Call:
    wanted = to_numpy_dtype(node.get("output_dtype", 0))
    settings = _placing(node) | {"dtype": None if wanted is None else torch_dtype(wanted)}
    return Call(dequantize, (0, 1, 2), settings, takes_codes=True)


def _dynamic_quantize(node: Node) -> Call:
    return Call(dynamic_quantize, (0,), gives_codes=torch.uint8)


OPERATORS: dict[str, Translation] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "com.microsoft.QuantizeLinear": _quantize,
    "com.microsoft.DequantizeLinear": _dequantize,
}
