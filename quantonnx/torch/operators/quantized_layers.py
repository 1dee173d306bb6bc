"""Layers that take and give codes in one operator, as files for ONNX Runtime's integer kernels have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported
from quantonnx.torch.operators.activation import over_the_rest, softmax
from quantonnx.torch.operators.pooling import average_pool, global_average_pool
from quantonnx.torch.operators.quantization import code_type, dequantize, dynamic_quantize, quantize
from quantonnx.torch.operators.quantized_products import matmul_integer
from quantonnx.torch.operators.windows import Windows

_DOMAIN = "com.microsoft."


def one(
    x: Tensor,
    scale_x: Tensor,
    zero_x: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    function: Callable[..., Tensor],
    kind: str,
    **settings: Any,
) -> Tensor:
    """Returns the codes of a function of the values that codes stand for."""
    return quantize(function(dequantize(x, scale_x, zero_x), **settings), scale, zero_point, kind)


def two(
    a: Tensor,
    scale_a: Tensor,
    zero_a: Tensor | None,
    b: Tensor,
    scale_b: Tensor,
    zero_b: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    function: Callable[..., Tensor],
    kind: str,
) -> Tensor:
    """Returns the codes of a function of two tensors of codes."""
    return quantize(function(dequantize(a, scale_a, zero_a), dequantize(b, scale_b, zero_b)), scale, zero_point, kind)


def concatenate(scale: Tensor, zero_point: Tensor, *pieces: Tensor, axis: int, kind: str) -> Tensor:
    """Returns the codes of tensors side by side, each given as codes, scale and zero point."""
    each = zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    values = [dequantize(x, scale_x, zero_x) for x, scale_x, zero_x in each]
    return quantize(torch.cat(values, axis), scale, zero_point, kind)


def product(
    a: Tensor,
    scale_a: Tensor,
    zero_a: Tensor | None,
    b: Tensor,
    scale_b: Tensor,
    zero_b: Tensor | None,
    c: Tensor | None,
    scale: Tensor | None,
    zero_point: Tensor | None,
    *,
    alpha: float,
    trans_a: bool,
    trans_b: bool,
    kind: str,
) -> Tensor:
    """Returns the codes of alpha·A·B + C, or its values where no scale is given; C counts in steps of the product of
    the scales."""
    left = a.double() if zero_a is None else a.double() - zero_a.double()
    right = b.t().double() if trans_b else b.double()
    right = right if zero_b is None else right - zero_b.double()
    sums = torch.matmul(left.t() if trans_a else left, right)
    values = (sums if c is None else sums + c.double()) * (alpha * scale_a.double() * scale_b.double())
    return values.float() if scale is None else quantize(values.float(), scale, zero_point, kind)


def matmul_to_float(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    zero_a: Tensor | None = None,
    zero_b: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Returns the values that a product of codes stands for, plus a bias."""
    values = (matmul_integer(a, b, zero_a, zero_b) * (scale_a.double() * scale_b.double())).float()
    return values if bias is None else values + bias


def dynamic_matmul(
    a: Tensor, b: Tensor, scale_b: Tensor, zero_b: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Returns the product of values, whose codes are found at once, with codes."""
    codes, scale, zero_point = dynamic_quantize(a)
    return matmul_to_float(codes, b, scale, scale_b, zero_point, zero_b, bias)


def _one(function: Callable[..., Any], settings: Callable[[Node], dict[str, Any]]) -> Translation:
    def translate(node: Node) -> Call:
        kind, dtype = code_type(node, 4)
        found = settings(node) | {"function": function, "kind": kind}
        return Call(one, tuple(range(5)), found, takes_codes=True, gives_codes=dtype)

    return translate


def _two(function: Callable[..., Any]) -> Translation:
    def translate(node: Node) -> Call:
        kind, dtype = code_type(node, 7)
        settings = {"function": function, "kind": kind}
        return Call(two, tuple(range(8)), settings, takes_codes=True, gives_codes=dtype)

    return translate


def _softmax(node: Node) -> Call:
    kind, dtype = code_type(node, 4)
    if node.get("opset") >= 13:
        settings: dict[str, Any] = {"function": softmax, "axis": node.get("axis", -1)}
    else:
        settings = {"function": over_the_rest, "op": "Softmax", "axis": node.get("axis", 1)}
    return Call(one, tuple(range(5)), settings | {"kind": kind}, takes_codes=True, gives_codes=dtype)


def _concatenate(node: Node) -> Call:
    kind, dtype = code_type(node, 1)
    return Call(concatenate, None, {"axis": node.get("axis"), "kind": kind}, takes_codes=True, gives_codes=dtype)


def _product(node: Node) -> Call:
    kind, dtype = code_type(node, 8)
    settings = {"alpha": node.get("alpha", 1.0), "kind": kind}
    settings |= {"trans_a": bool(node.get("transA", 0)), "trans_b": bool(node.get("transB", 0))}
    return Call(product, tuple(range(9)), settings, takes_codes=True, gives_codes=dtype if node.has(7) else None)


def _pooled(node: Node) -> dict[str, Any]:
    _refuse_channels_last(node)
    settings = {"kernel": tuple(node.get("kernel_shape")), "windows": Windows.of(node)}
    return settings | {"count_padding": bool(node.get("count_include_pad", 0))}


def _refuse_channels_last(node: Node) -> dict[str, Any]:
    if node.get("channels_last", 0):
        raise Unsupported("channels_last")
    return {}


_TRANSLATIONS: dict[str, Translation] = {
    "QLinearAdd": _two(torch.add),
    "QLinearMul": _two(torch.mul),
    "QLinearSigmoid": _one(torch.sigmoid, lambda node: {}),
    "QLinearLeakyRelu": _one(functional.leaky_relu, lambda node: {"negative_slope": node.get("alpha", 0.01)}),
    "QLinearGlobalAveragePool": _one(global_average_pool, _refuse_channels_last),
    "QLinearAveragePool": _one(average_pool, _pooled),
    "QLinearSoftmax": _softmax,
    "QLinearConcat": _concatenate,
    "QGemm": _product,
    "MatMulIntegerToFloat": lambda node: Call(matmul_to_float, tuple(range(7)), takes_codes=True),
    "DynamicQuantizeMatMul": lambda node: Call(dynamic_matmul, tuple(range(5))),
}
OPERATORS: dict[str, Translation] = {_DOMAIN + op: translation for op, translation in _TRANSLATIONS.items()}
