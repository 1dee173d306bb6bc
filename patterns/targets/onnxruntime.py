"""ONNX Runtime on CPUs with VNNI or its Arm counterparts.

Measured rules: a Conv is an integer kernel only when input, weight and output are quantized; Relu and Clip vanish when
the range of unsigned codes implies them, other activations keep a pair on each side; Add, Mul, Concat and pooling are
integer when all their inputs and the output are; activations are unsigned, since signed symmetric ones turn most of a
network back into float; weights are int8 per output channel (on axis 0 of a MatMul that gives wrong results, silently),
the bias is int32 with the product of the scales.
"""

from __future__ import annotations

from quantonnx.formats import TensorFormat
from quantonnx.pattern import BIAS, INPUT, OUTPUT, WEIGHT, Pattern
from quantonnx.target import BiasKind, Target

from ..conversions import conversions
from ..convolution import ConvBN, ConvBNRelu, SqueezeExcite, output_axis
from ..elementwise import elementwise
from ..linear import Linear
from ..linear import output_axis as linear_axis
from ..pooling import poolings


def transposed_convolution(found: Pattern) -> str | None:
    """ConvTranspose has no integer kernel here."""
    if isinstance(found, ConvBN) and found.conv.op == "ConvTranspose":
        return f"ConvTranspose {found.conv.name!r} has no integer kernel in ONNX Runtime"
    return None


def depthwise(found: Pattern) -> bool:
    """A depthwise Conv moves more than it computes: alone its conversions cost more than integer codes gain, between
    integer operators they make it a third faster."""
    return isinstance(found, ConvBN) and found.conv.attrs.get("group", 1) > 1 and found.weight.shape[1] == 1


def _convolution(points_of: type[ConvBN]) -> type[Pattern]:
    return points_of.with_points(x=INPUT, weight=lambda w: WEIGHT(w, axis=output_axis), bias=BIAS, output=OUTPUT)


target = Target(
    name="onnxruntime",
    description="ONNX Runtime CPU: uint8 activations, outputs quantized, residual adds closed, int32 bias",
    conversions=conversions,
    patterns=(
        SqueezeExcite,
        _convolution(ConvBNRelu),
        _convolution(ConvBN),
        Linear.with_points(x=INPUT, weight=lambda w: WEIGHT(w, axis=linear_axis), bias=BIAS),
        *poolings,
        *elementwise,
    ),
    activation=TensorFormat(n_bits=8, signed=False, symmetric=False),
    weight=TensorFormat(n_bits=8, signed=True, symmetric=True, narrow_range=True, axis=0),
    bias=BiasKind.INT32,
    method="mse",
    glue=frozenset({"AveragePool", "Add", "Mul", "Concat", "ResizeNearest"}),
    memory_bound=depthwise,
    rules=(transposed_convolution,),
    same_scale=frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}),
)
