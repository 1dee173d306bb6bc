"""ONNX Runtime on CPUs with VNNI or its Arm counterparts.

Measured rules: a Conv is an integer kernel only when input, weight and output are quantized; Relu and Clip vanish when
the range of unsigned codes implies them, other activations keep a pair on each side; Add, Mul, Concat and pooling are
integer when all their inputs and the output are; activations are unsigned, since signed symmetric ones turn most of a
network back into float; weights are int8 per output channel (on axis 0 of a MatMul that gives wrong results, silently),
the bias is int32 with the product of the scales.
"""

from __future__ import annotations

from quantonnx.costs import Cost, CostModel
from quantonnx.formats import TensorFormat
from quantonnx.pattern import BIAS, INPUT, OUTPUT, WEIGHT, Pattern
from quantonnx.target import BiasKind, Target

from ..activation import gelus
from ..attention import ScaledDotProductAttention
from ..conversions import conversions
from ..convolution import ConvBN, ConvBNRelu, output_axis
from ..elementwise import Sigmoid, elementwise
from ..linear import Linear, embeddings
from ..linear import output_axis as linear_axis
from ..normalization import normalizations
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


signed = TensorFormat(n_bits=8, signed=True, symmetric=True)
attention = ScaledDotProductAttention.with_points(p=INPUT, v=lambda v: INPUT(v, format=signed))


# printed by `python benchmarks/cost_model.py onnxruntime`: ONNX Runtime 1.31, one thread of a Xeon with AVX512-VNNI
costs = CostModel(
    float_costs={
        "Conv": Cost(2170, 0.0116, 0.192, 0.108),
        "depthwise": Cost(1450, 0.0155, 0.271, 0.344),
        "grouped": Cost(19800, 0, 1.46, 0.733),
        "MatMul": Cost(701, 0.0113, 0.0267, 0.0375),
        "product": Cost(1740, 0.017, 0, 0),
        "Add": Cost(1050, 0, 0.109, 0),
        "Mul": Cost(1150, 0, 0.111, 0),
        "Concat": Cost(1130, 0, 0.123, 0),
        "Sigmoid": Cost(546, 0, 0.193, 0),
        "GlobalAveragePool": Cost(549, 0, 0.259, 0),
        "QuantizeLinear": Cost(547, 0, 0.058, 0),
        "DequantizeLinear": Cost(557, 0, 0.0445, 0),
    },
    integer_costs={
        "Conv": Cost(2630, 0.00275, 0.164, 0.0133),
        "depthwise": Cost(4340, 0.0358, 0.134, 0),
        "grouped": Cost(28800, 0, 1.29, 0),
        "MatMul": Cost(1810, 0.000642, 0.207, 0.0139),
        "product": Cost(2240, 0.0024, 0.0952, 0),
        "Add": Cost(1600, 0, 0.0561, 0),
        "Mul": Cost(1580, 0, 0.0928, 0),
        "Concat": Cost(1300, 0, 0.0241, 0),
        "Sigmoid": Cost(617, 0, 0.135, 0),
        "GlobalAveragePool": Cost(848, 0, 0.0427, 0),
    },
)


target = Target(
    name="onnxruntime",
    description="ONNX Runtime CPU: uint8 activations, outputs quantized, residual adds closed, int32 bias",
    conversions=conversions,
    patterns=(
        attention,
        *normalizations,
        *gelus,
        *embeddings,
        _convolution(ConvBNRelu),
        _convolution(ConvBN),
        Linear.with_points(x=INPUT, weight=lambda w: WEIGHT(w, axis=linear_axis), bias=BIAS),
        *poolings,
        Sigmoid,
        *elementwise,
    ),
    activation=TensorFormat(n_bits=8, signed=False, symmetric=False),
    weight=TensorFormat(n_bits=8, signed=True, symmetric=True, narrow_range=True, axis=0),
    bias=BiasKind.INT32,
    method="mse",
    glue=frozenset({"AveragePool", "Sigmoid", "Add", "Mul", "Concat", "ResizeNearest"}),
    memory_bound=depthwise,
    rules=(transposed_convolution,),
    same_scale=frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}),
    costs=costs,
)
