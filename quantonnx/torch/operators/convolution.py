"""Convolutions, and convolutions turned round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported, integers
from quantonnx.torch.operators.windows import Pads, Windows, even, halves, padded

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int = 1) -> Tensor:
    """Returns the convolution of x [N, C, …] with weight [M, C/groups, …]."""
    kernel = weight.shape[2:]
    rank = len(kernel)
    padding = windows.padding(x.shape[2:], kernel)
    amounts = even(padding)
    if amounts is None:
        x, amounts = padded(x, padding), (0,) * rank
    rest = windows.steps(rank), amounts, windows.spacings(rank), groups
    return _CONVOLUTIONS[rank](x, weight, bias, *rest)


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    windows: Windows,
    groups: int = 1,
    extra: tuple[int, ...] = (),
    sizes: tuple[int, ...] = (),
) -> Tensor:
    """Returns the transposed convolution of x [N, C, …] with weight [C, M/groups, …].

    `extra` is ONNX's output_padding, `sizes` its output_shape, from which the padding follows.
    """
    kernel = weight.shape[2:]
    rank = len(kernel)
    extra = extra or (0,) * rank
    steps, spacings = windows.steps(rank), windows.spacings(rank)
    padding = _cut_off(x.shape[2:], kernel, windows, extra, sizes)
    amounts = even(padding)
    if amounts is not None and all(e < max(s, d) for e, s, d in zip(extra, steps, spacings, strict=True)):
        return _TRANSPOSED[rank](x, weight, bias, steps, amounts, extra, groups, spacings)
    whole = _TRANSPOSED[rank](x, weight, None, steps, 0, 0, groups, spacings)
    found = padded(whole, tuple((-first, more - last) for (first, last), more in zip(padding, extra, strict=True)))
    return found if bias is None else found + bias.reshape(-1, *(1,) * rank)


def fold(x: Tensor, image: Any, block: Any, windows: Windows) -> Tensor:
    """Returns an image of these sizes, each value the sum of those of x [N, C · block, places] that lie there."""
    sizes, kernel = integers(image), integers(block)
    rank, taps = len(kernel), math.prod(kernel)
    padding = windows.padding(sizes, kernel)
    counts, channels = windows.counts(sizes, kernel, padding), x.shape[1] // taps
    ones = torch.eye(taps, dtype=x.dtype, device=x.device).reshape(taps, 1, *kernel)
    steps, spacings = windows.steps(rank), windows.spacings(rank)
    rows, weight = x.reshape(x.shape[0], -1, *counts), ones.repeat(channels, 1, *(1,) * rank)
    whole = _TRANSPOSED[rank](rows, weight, None, steps, 0, 0, channels, spacings)
    each = zip(sizes, whole.shape[2:], padding, strict=True)
    return padded(whole, tuple((-first, size + first - found) for size, found, (first, _) in each))


def _cut_off(
    given: Sequence[int], kernel: Sequence[int], windows: Windows, extra: Sequence[int], sizes: Sequence[int]
) -> Pads:
    rank = len(kernel)
    steps = windows.steps(rank)
    if not sizes and not windows.auto_pad.startswith("SAME"):
        return windows.padding(given, kernel)
    wanted = sizes[-rank:] or tuple(size * step for size, step in zip(given, steps, strict=True))
    each = zip(given, steps, extra, windows.extents(kernel), wanted, strict=True)
    totals = [step * (size - 1) + more + extent - want for size, step, more, extent, want in each]
    found = halves((max(0, total) for total in totals), more_first=windows.auto_pad != "SAME_UPPER")
    if not sizes:
        return found
    return tuple((first, last + min(0, total)) for (first, last), total in zip(found, totals, strict=True))


def _convolve(node: Node) -> Call:
    return Call(convolve, (0, 1, 2), {"windows": Windows.of(node), "groups": node.get("group", 1)})


def _convolve_transposed(node: Node) -> Call:
    if node.has(1) and 1 in node.constants and node.constants[1].ndim > 5:
        raise Unsupported("more than three spatial axes")
    settings: dict[str, Any] = {"windows": Windows.of(node), "groups": node.get("group", 1)}
    settings["extra"] = tuple(node.get("output_padding", ()))
    settings["sizes"] = tuple(node.get("output_shape", ()))
    return Call(convolve_transposed, (0, 1, 2), settings)


def _fold(node: Node) -> Call:
    return Call(fold, (0, 1, 2), {"windows": Windows.of(node)}, numbers=frozenset({1, 2}))


OPERATORS: dict[str, Translation] = {
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "Col2Im": _fold,
}
