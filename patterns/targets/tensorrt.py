"""NVIDIA TensorRT, explicit quantization.

Rules from its developer guide: quantize every input of Conv and Gemm and the skip input of a fused residual Add,
nothing inside a fused group and no output of it; int8 is symmetric with zero point 0, per channel for weights and per
tensor for activations; the bias stays float; pooling is fused when both of its sides are quantized.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from quantonnx.formats import Storage, TensorFormat
from quantonnx.pattern import Pattern, Role
from quantonnx.target import BiasKind, FormatRequest, Target

from ..activation import gelus
from ..attention import attentions
from ..conversions import conversions
from ..convolution import convolutions
from ..linear import Linear, embeddings, linears
from ..normalization import normalizations
from ..pooling import poolings

SMALLEST_PRODUCT = 16


def small_product(found: Pattern) -> str | None:
    """A matrix product with few inputs or outputs gains nothing from int8."""
    if (
        isinstance(found, Linear)
        and isinstance(found.weight, gs.Constant)
        and min(found.weight.shape[-2:]) < SMALLEST_PRODUCT
    ):
        shape = "×".join(str(size) for size in found.weight.shape)
        return f"the weight {found.weight.name!r} is only {shape}: under {SMALLEST_PRODUCT}, int8 gains nothing"
    return None


def no_such_format(asked: FormatRequest) -> str | None:
    """Why TensorRT refuses a format, or None."""
    fmt = asked.format
    if asked.role is Role.BIAS:
        return "its biases are float; switch the bias off there"
    if asked.dynamic:
        return "its scales are constants of the file; leave `dynamic` out"
    if fmt.float8:
        return None
    if not (fmt.signed and fmt.symmetric):
        return "its int8 is signed and symmetric, with zero point 0; say `symmetric: true`"
    if fmt.n_bits > 8:
        return "its integers have at most 8 bits; use 8, or leave the operator in float"
    if asked.role is not Role.WEIGHT:
        return None if fmt.n_bits == 8 else "its activations have 8 bits; use fewer bits for weights only"
    if asked.activation is not None and asked.activation.float8:
        return "float8 activations meet float8 weights there; say `weight: {dtype: float8e4m3fn}`"
    return _no_such_weight(asked)


def _no_such_weight(asked: FormatRequest) -> str | None:
    fmt = asked.format
    native = fmt.storage is Storage.NATIVE
    if (fmt.group_size or native) and not (native and fmt.n_bits == 4 and fmt.group_size in (64, 128)):
        return "its int4 is native, in groups of 64 or 128; say `n_bits: 4, storage: native, group_size: 128`"
    if native and fmt.n_bits == 4 and asked.activation is not None:
        return "native int4 is for weights alone; say `activation: null`, or `storage: narrowed`"
    return None


target = Target(
    name="tensorrt",
    description="NVIDIA TensorRT: symmetric int8, pairs on inputs and residual inputs only, float bias",
    conversions=conversions,
    patterns=(*attentions, *normalizations, *gelus, *embeddings, *convolutions, *linears, *poolings),
    activation=TensorFormat(n_bits=8, signed=True, symmetric=True),
    weight=TensorFormat(n_bits=8, signed=True, symmetric=True, axis=0),
    bias=BiasKind.FLOAT,
    float_types=frozenset({"float32", "float16"}),
    rules=(small_product,),
    refuses=no_such_format,
    transparent=frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}),
    one_scale=frozenset({"Concat"}),
)
