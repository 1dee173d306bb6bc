"""Products of codes, exact in float64, with gradients as if nothing had been rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, Unsupported
from quantonnx.torch.operators.convolution import convolve
from quantonnx.torch.operators.quantization import code_type, quantize
from quantonnx.torch.operators.windows import Windows


def matmul_integer(a: Tensor, b: Tensor, zero_a: Tensor | None, zero_b: Tensor | None) -> Tensor:
    """Returns the product of codes less their zero points, which are one number, or one for each row of A or column
    of B."""
    return torch.matmul(_of_rows(a, zero_a), _of_columns(b, zero_b))


def _of_rows(a: Tensor, numbers: Tensor | None) -> Tensor:
    if numbers is None:
        return a.double()
    return a.double() - (numbers.double()[:, None] if numbers.ndim == 1 and len(numbers) > 1 else numbers.double())


def _of_columns(b: Tensor, numbers: Tensor | None) -> Tensor:
    return b.double() if numbers is None else b.double() - numbers.double()


def convolve_integer(
    x: Tensor, weight: Tensor, zero_x: Tensor | None, zero_w: Tensor | None, windows: Windows, groups: int
) -> Tensor:
    """Returns the convolution of codes less their zero points, which are one number, or one for each output channel."""
    values = x.double() if zero_x is None else x.double() - zero_x.double().reshape(())
    kernel = weight.double() if zero_w is None else weight.double() - _by_channel(zero_w.double(), weight.ndim)
    return convolve(values, kernel, None, windows, groups)


def _by_channel(numbers: Tensor, rank: int) -> Tensor:
    return numbers.reshape(-1, *(1,) * (rank - 1))


def quantized_matmul(
    a: Tensor,
    scale_a: Tensor,
    zero_a: Tensor,
    b: Tensor,
    scale_b: Tensor,
    zero_b: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    kind: str,
) -> Tensor:
    """Returns the codes of a product of codes."""
    rows = scale_a[:, None] if scale_a.ndim == 1 and len(scale_a) > 1 else scale_a
    values = matmul_integer(a, b, zero_a, zero_b) * (rows.float() * scale_b.float())
    return quantize(values.float(), scale, zero_point, kind, axis=-1)


def quantized_convolve(
    x: Tensor,
    scale_x: Tensor,
    zero_x: Tensor,
    weight: Tensor,
    scale_w: Tensor,
    zero_w: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str,
    windows: Windows,
    groups: int,
) -> Tensor:
    """Returns the codes of a convolution of codes; the bias counts in steps of the product of the scales."""
    sums = convolve_integer(x, weight, zero_x, zero_w, windows, groups)
    if bias is not None:
        sums = sums + _by_channel(bias.double(), sums.ndim - 1)
    values = sums * (scale_x * _by_channel(scale_w, sums.ndim - 1))
    return quantize(values.float(), scale, zero_point, kind)


def matmul_n_bits(
    a: Tensor,
    packed: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    inner: int,
    columns: int,
    bits: int,
    block: int,
) -> Tensor:
    """Returns A times a matrix whose codes lie in bytes, the first in the lowest bits, each block with a scale."""
    codes = _unpacked(packed.reshape(columns, -1), bits).reshape(columns, -1, block).to(scales.dtype)
    zeros: Any = 2.0 ** (bits - 1)
    if zero_points is not None and zero_points.dtype == torch.uint8:
        zeros = _unpacked(zero_points.reshape(columns, -1), bits)[:, : codes.shape[1], None].to(scales.dtype)
    elif zero_points is not None:
        zeros = zero_points.reshape(columns, -1, 1)
    weight = ((codes - zeros) * scales.reshape(columns, -1, 1)).reshape(columns, -1)[:, :inner]
    return torch.nn.functional.linear(a, weight.to(a.dtype), bias)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Returns the codes in rows of bytes."""
    places = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    codes: Tensor = (packed[..., None] >> places) & (2**bits - 1)
    return codes.flatten(-2)


def _matmul_integer(node: Node) -> Call:
    return Call(matmul_integer, (0, 1, 2, 3), takes_codes=True, gives_codes=torch.int32)


def _convolve_integer(node: Node) -> Call:
    settings = {"windows": Windows.of(node), "groups": node.get("group", 1)}
    return Call(convolve_integer, (0, 1, 2, 3), settings, takes_codes=True, gives_codes=torch.int32)


def _quantized_matmul(node: Node) -> Call:
    kind, dtype = code_type(node, 7)
    return Call(quantized_matmul, tuple(range(8)), {"kind": kind}, takes_codes=True, gives_codes=dtype)


def _quantized_convolve(node: Node) -> Call:
    kind, dtype = code_type(node, 7)
    settings = {"kind": kind, "windows": Windows.of(node), "groups": node.get("group", 1)}
    return Call(quantized_convolve, tuple(range(9)), settings, takes_codes=True, gives_codes=dtype)


def _matmul_n_bits(node: Node) -> Call:
    if node.has(4) or node.get("bits", 4) not in (2, 4, 8):
        raise Unsupported("groups out of order" if node.has(4) else f"{node.get('bits')} bits")
    settings = {"inner": node.get("K"), "columns": node.get("N"), "bits": node.get("bits", 4)}
    return Call(matmul_n_bits, tuple(range(6)), settings | {"block": node.get("block_size")})


OPERATORS: dict[str, Translation] = {
    "MatMulInteger": _matmul_integer,
    "ConvInteger": _convolve_integer,
    "QLinearMatMul": _quantized_matmul,
    "QLinearConv": _quantized_convolve,
    "com.microsoft.MatMulNBits": _matmul_n_bits,
}
