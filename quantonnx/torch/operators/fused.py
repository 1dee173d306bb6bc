"""Operators of ONNX Runtime's own domain, into which its optimizer fuses those of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported
from quantonnx.torch.operators.activation import clip, hard_sigmoid
from quantonnx.torch.operators.convolution import convolve
from quantonnx.torch.operators.linear import gemm, gemm_call
from quantonnx.torch.operators.windows import Windows

_ACTIVATIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "": lambda x: x,
        "Relu": torch.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "LeakyRelu": functional.leaky_relu,
        "Clip": clip,
        "HardSigmoid": hard_sigmoid,
    }
)


def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns GELU by its tanh formula, of x plus a bias."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Returns GELU of x plus a bias."""
    return functional.gelu(x + bias)


def quick_gelu(x: Tensor, alpha: float) -> Tensor:
    """Returns x·σ(alpha·x)."""
    return x * torch.sigmoid(x * alpha)


def skip_layer_norm(
    x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float
) -> Tensor:
    """Returns the layer normalization of the sum of x, skip and bias."""
    return functional.layer_norm(_sum(x, skip, bias), x.shape[-1:], scale, shift, epsilon)


def skip_layer_norm_and_sum(
    x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float
) -> tuple[Tensor, None, None, Tensor]:
    """Returns the layer normalization of the sum of x, skip and bias, and, as the fourth, that sum."""
    total = _sum(x, skip, bias)
    return functional.layer_norm(total, x.shape[-1:], scale, shift, epsilon), None, None, total


def skip_rms_norm(x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, *, epsilon: float) -> Tensor:
    """Returns the root-mean-square normalization of the sum of x, skip and bias."""
    return functional.rms_norm(_sum(x, skip, bias), x.shape[-1:], scale, epsilon)


def skip_rms_norm_and_sum(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, *, epsilon: float
) -> tuple[Tensor, None, None, Tensor]:
    """Returns the root-mean-square normalization of the sum of x, skip and bias, and, as the fourth, that sum."""
    total = _sum(x, skip, bias)
    return functional.rms_norm(total, x.shape[-1:], scale, epsilon), None, None, total


def _sum(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    return x + skip if bias is None else x + skip + bias


def fused_matmul(
    a: Tensor, b: Tensor, alpha: float, trans_a: bool, trans_b: bool, trans_batch_a: bool, trans_batch_b: bool
) -> Tensor:
    """Returns alpha·A·B of matrices that are turned first, or whose first and next-to-last axes change places."""
    a, b = (_turned(x, *how) for x, how in ((a, (trans_a, trans_batch_a)), (b, (trans_b, trans_batch_b))))
    found = torch.matmul(a, b)
    return found if alpha == 1 else found * alpha


def _turned(x: Tensor, last: bool, batch: bool) -> Tensor:
    if batch:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if last and x.ndim > 1 else x


def fused_convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    windows: Windows,
    groups: int,
    activation: str,
    numbers: tuple[float, ...],
) -> Tensor:
    """Returns the activation of a convolution plus another tensor."""
    found = convolve(x, weight, bias, windows, groups)
    return _ACTIVATIONS[activation](found if added is None else found + added, *numbers)


def fused_gemm(
    a: Tensor, b: Tensor, c: Tensor | None, *, activation: str, numbers: tuple[float, ...], **settings: Any
) -> Tensor:
    """Returns the activation of alpha·A·B + beta·C."""
    return _ACTIVATIONS[activation](gemm(a, b, c, **settings), *numbers)


def embed(
    tokens: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    of_segments: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    places: Tensor | None = None,
    *,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the normalized sum of the embeddings of tokens, places and segments; how many tokens of a sample the mask
    has, 0 without one; and the sum."""
    total = functional.embedding(tokens, words)
    total = total + (positions[: tokens.shape[1]] if places is None else functional.embedding(places, positions))
    if segments is not None and of_segments is not None:
        total = total + functional.embedding(segments, of_segments)
    counts = torch.zeros_like(tokens[:, 0]) if mask is None else mask.sum(1)
    return functional.layer_norm(total, total.shape[-1:], scale, shift, epsilon), counts.to(torch.int32), total


def _skip_norm(one: Callable[..., Any], several: Callable[..., Any], inputs: int) -> Translation:
    def translate(node: Node) -> Call:
        if any(node.wanted[1:3]):
            raise Unsupported("mean and deviation as outputs")
        settings = {"epsilon": node.get("epsilon", 1e-12 if inputs == 5 else 1e-5)}
        return Call(one if len(node.wanted) == 1 else several, tuple(range(inputs)), settings)

    return translate


def _fused_matmul(node: Node) -> Call:
    names = {"trans_a": "transA", "trans_b": "transB", "trans_batch_a": "transBatchA", "trans_batch_b": "transBatchB"}
    settings = {key: bool(node.get(name, 0)) for key, name in names.items()}
    return Call(fused_matmul, settings=settings | {"alpha": node.get("alpha", 1.0)})


def _activation(node: Node, numbers: Sequence[float]) -> dict[str, Any]:
    name = node.get("activation", "")
    if name not in _ACTIVATIONS:
        raise Unsupported(f"activation {name!r}")
    return {"activation": name, "numbers": tuple(numbers)}


def _fused_convolve(node: Node) -> Call:
    settings = {"windows": Windows.of(node), "groups": node.get("group", 1)}
    return Call(fused_convolve, (0, 1, 2, 3), settings | _activation(node, node.get("activation_params", ())))


def _fused_gemm(node: Node) -> Call:
    given = (node.get(f"activation_{name}") for name in ("alpha", "beta"))
    plain = gemm_call(node)
    return Call(fused_gemm, plain.inputs, {**plain.settings, **_activation(node, [n for n in given if n is not None])})


def _embed(node: Node) -> Call:
    return Call(embed, tuple(range(9)), {"epsilon": node.get("epsilon", 1e-12)})


_TRANSLATIONS: dict[str, Translation] = {
    "Gelu": lambda node: Call(functional.gelu),
    "BiasGelu": lambda node: Call(bias_gelu),
    "FastGelu": lambda node: Call(fast_gelu),
    "QuickGelu": lambda node: Call(quick_gelu, (0,), {"alpha": node.get("alpha", 1.702)}),
    "SkipLayerNormalization": _skip_norm(skip_layer_norm, skip_layer_norm_and_sum, 5),
    "SkipSimplifiedLayerNormalization": _skip_norm(skip_rms_norm, skip_rms_norm_and_sum, 4),
    "EmbedLayerNormalization": _embed,
    "FusedMatMul": _fused_matmul,
    "FusedGemm": _fused_gemm,
    "FusedConv": _fused_convolve,
}
OPERATORS: dict[str, Translation] = {f"com.microsoft.{op}": call for op, call in _TRANSLATIONS.items()}
