"""Rules about quantized weights and biases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.inspecting import constant_of
from quantonnx.linting.findings import Finding, error, info, warning
from quantonnx.linting.view import WEIGHTED, Coder, View, named

Array = np.ndarray[Any, Any]

MOST_SATURATED = 0.2
"""The share of weights at the ends of the code range from which on the scale is taken to be too small."""

FEWEST_STEPS = 3
"""The largest code, in absolute value, up to which a scale is taken to be too large."""

_FEWEST_WEIGHTS = 64
_SAME_PRODUCT = 1e-3


def axes(view: View) -> Iterator[Finding]:
    """Scales per channel go along the output channels of the operator."""
    for node, index, coder in _weights(view):
        expected = _channel_axis(node, index)
        found = _axis_at(node.inputs[index], coder)
        rank = _rank(node.inputs[index], coder)
        if not coder.per_channel or expected is None or found is None or rank is None:
            continue
        if found % rank != expected % rank:
            yield error(
                "wrong-axis",
                named(node),
                f"its weight has scales along axis {found % rank}; its output channels are on axis {expected % rank}"
                ", and ONNX Runtime computes wrong numbers there, silently",
                f"quantize the weight along axis {expected % rank}, or with one scale",
            )


def granularity(view: View) -> Iterator[Finding]:
    """Activations have one scale; weights of convolutions one for each output channel."""
    for pair, activation in view.quantizers:
        if activation.per_channel and view.profile.target.activation.axis is None:
            yield error(
                "activation-per-channel",
                pair.tensor,
                f"it has {activation.scale.size if activation.scale is not None else 0} scales, activations have one",
                "calibrate it per tensor",
            )
    for node, index, coder in _weights(view):
        one = coder.scale is not None and coder.scale.size == 1 and not coder.block_size
        plain = node.op == "Conv" or (node.op == "ConvTranspose" and node.attrs.get("group", 1) == 1)
        if one and plain and index == 1 and view.profile.target.weight.axis is not None and _channels(node) > 1:
            yield info(
                "weight-per-tensor",
                named(node),
                "its weight has one scale, although each output channel may have its own",
                "quantize weights per channel, which costs nothing",
            )


def formats(view: View) -> Iterator[Finding]:
    """Some kernels take signed weights with zero point 0 only; weights of 4 bits come in blocks."""
    facts, name = view.profile.facts, view.profile.name
    for node, index, coder in _weights(view):
        odd = coder.is_integer and (not coder.signed or not coder.zero_is_zero)
        if facts.weight_signed and odd:
            yield warning(
                "weight-format",
                named(node),
                f"its weight is {coder.dtype}{'' if coder.zero_is_zero else ' with zero points other than 0'}"
                f", which {name} computes in float",
                "use int8 weights with zero point 0",
            )
        if not coder.is_integer or coder.bits > 4:
            continue
        if view.dequantizer(node.inputs[1 - index]) is not None:
            yield warning(
                "runs-as-float",
                named(node),
                f"its weight has {coder.bits} bits under a quantized input, which {name} computes in float",
                "use 8-bit weights, or leave the input in float",
            )
        elif facts.block_sizes and coder.block_size not in facts.block_sizes:
            sizes = " or ".join(map(str, facts.block_sizes))
            yield error(
                "block-size",
                named(node),
                f"its {coder.bits}-bit weight has blocks of {coder.block_size or 'no size'}, {name} takes {sizes}",
                f"quantize it in blocks of {sizes}",
            )


def one_sided(view: View) -> Iterator[Finding]:
    """An integer kernel needs both operands quantized."""
    for node in view.nodes:
        index = view.weight_index(node) if node.op in WEIGHTED else None
        if index is None:
            continue
        weight, value = view.dequantizer(node.inputs[index]), view.dequantizer(node.inputs[1 - index])
        if value is not None and weight is None and not _is_wanted_output(view, value):
            yield warning(
                "weight-float",
                named(node),
                "its input is quantized, its weight is not",
                "quantize the weight too, or take the pair away from the input",
            )
        alone = weight is not None and not view.is_quantized(node.inputs[1 - index])
        if alone and weight is not None and weight.bits == 8 and node.op not in view.profile.facts.weight_only:
            yield warning(
                "weight-only",
                named(node),
                f"its weight is quantized, its input is not: {view.profile.name} computes it in float",
                "put a pair on its input, or leave the weight in float",
            )


def biases(view: View) -> Iterator[Finding]:
    """A bias is float, or int32 with the product of the scales of input and weight."""
    for node in view.nodes:
        if node.op not in WEIGHTED or len(node.inputs) < 3:
            continue
        coder = view.dequantizer(node.inputs[2])
        if coder is None or not view.is_quantized_constant(coder):
            continue
        if view.profile.facts.int32_bias_refused:
            yield error(
                "bias-refused",
                named(node),
                f"its bias has a pair, and {view.profile.name} does not load that",
                "leave the bias in float",
            )
        elif coder.bits < 32:
            yield warning(
                "bias-bits",
                named(node),
                f"its bias has codes of {coder.bits} bits, too few for a sum",
                "leave the bias in float, or store it as int32",
            )
        elif not _is_product(view, node, coder):
            yield error(
                "bias-scale",
                named(node),
                "the scale of its int32 bias is not that of its input times that of its weight, as integer kernels "
                "take for granted",
                "store the bias with the product of the two scales",
            )


def codes(view: View) -> Iterator[Finding]:
    """Codes that pile up at the ends, or around zero, show a scale that does not fit the weight."""
    seen: set[int] = set()
    for node, index, coder in _weights(view):
        constant = constant_of(coder.node.inputs[0])
        if constant is None or id(constant) in seen or not coder.is_integer or coder.bits != 8:
            continue
        seen.add(id(constant))
        values = view.model.array(constant)
        if values.size < _FEWEST_WEIGHTS or index >= len(node.inputs):
            continue
        yield from _judged(named(node), values, coder)


def _judged(place: str, values: Array, coder: Coder) -> Iterator[Finding]:
    centred = values.astype(np.int16) - int(coder.zeros[0])
    lowest, largest = coder.lowest_code, int(np.abs(centred).max())
    channels = 1 if coder.scale is None else coder.scale.size  # the largest weight of each is at an end by right
    at_ends = int(((values <= lowest + 1) | (values >= lowest + 255)).sum())
    ends = max(at_ends - channels, 0) / values.size
    if ends > MOST_SATURATED:
        yield warning(
            "weight-saturated",
            place,
            f"{100 * ends:.0f} % of its weights are at the ends of the codes: their scale is too small",
            "choose the scale from the largest weight",
        )
    elif 0 < largest <= FEWEST_STEPS:
        yield warning(
            "weight-coarse",
            place,
            f"its weights use the codes up to {largest} of 127 only: their scale is too large",
            "choose the scale from the largest weight",
        )


def _is_wanted_output(view: View, coder: Coder) -> bool:
    """Whether the pair stands there for the operator before it; a reader in float then loses nothing."""
    quantize = coder.node.inputs[0].inputs[0] if coder.node.inputs[0].inputs else None
    if quantize is None or quantize.op != "QuantizeLinear":
        return False
    name = quantize.inputs[0].name
    return view.skeleton.names.get(name, name) in view.skeleton.wanted_outputs


def _weights(view: View) -> Iterator[tuple[gs.Node, int, Coder]]:
    """Operators with a quantized weight: which of their inputs it is, and its numbers."""
    for node in view.nodes:
        index = view.weight_index(node) if node.op in WEIGHTED else None
        coder = view.dequantizer(node.inputs[index]) if index is not None else None
        if index is not None and coder is not None:
            yield node, index, coder


def _channel_axis(node: gs.Node, index: int) -> int | None:
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1 if node.attrs.get("group", 1) == 1 else None
    if node.op == "Gemm":
        turned = bool(node.attrs.get("transA" if index == 0 else "transB", 0))
        return int((index == 0) == turned)
    return -1 if index == 1 else -2


def _axis_at(value: gs.Tensor, coder: Coder) -> int | None:
    """The axis of the scales as the operator sees them, behind a Transpose; None behind other operators."""
    if not value.inputs or value.inputs[0] is coder.node:
        return coder.axis
    node = value.inputs[0]
    if node.op != "Transpose" or not node.inputs[0].inputs or node.inputs[0].inputs[0] is not coder.node:
        return None
    rank = _rank(value, coder)
    order = node.attrs.get("perm") or (list(range(rank))[::-1] if rank else None)
    return None if order is None else list(order).index(coder.axis % len(order))


def _rank(value: gs.Tensor, coder: Coder) -> int | None:
    stored = constant_of(coder.node.inputs[0])
    shape = stored.shape if stored is not None else coder.node.inputs[0].shape
    return None if shape is None else len(shape)


def _channels(node: gs.Node) -> int:
    coder = node.inputs[1].inputs[0] if node.inputs[1].inputs else None
    stored = constant_of(coder.inputs[0]) if coder is not None else None
    shape = stored.shape if stored is not None else ()
    return int(shape[0 if node.op == "Conv" else 1]) if len(shape) > 1 else 0


def _is_product(view: View, node: gs.Node, bias: Coder) -> bool:
    """Whether the scale is the product; True where nothing can be said."""
    value, weight = view.dequantizer(node.inputs[0]), view.dequantizer(node.inputs[1])
    if value is None or weight is None or value.scale is None or weight.scale is None or bias.scale is None:
        return True
    product = value.scale.reshape(-1) * weight.scale.reshape(-1)
    sizes = {product.size, bias.scale.size} - {1}
    return len(sizes) < 2 and bool(np.allclose(bias.scale.reshape(-1), product, rtol=_SAME_PRODUCT, atol=0))
