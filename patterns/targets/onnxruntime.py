"""ONNX Runtime on CPUs with VNNI or its Arm counterparts.

Measured rules: a Conv is an integer kernel only when input, weight and output are quantized; Relu and Clip vanish when
the range of unsigned codes implies them, other activations keep a pair on each side; Add, Mul, Concat and pooling are
integer when all their inputs and the output are; activations are unsigned, since signed symmetric ones turn most of a
network back into float; weights are int8 per output channel (on axis 0 of a MatMul that gives wrong results, silently),
the bias is int32 with the product of the scales.
"""

from __future__ import annotations

from quantonnx.costs import Cost, CostModel
from quantonnx.dynamic_formats import activation_refusal, refusal
from quantonnx.formats import Storage, TensorFormat
from quantonnx.pattern import BIAS, INPUT, OUTPUT, WEIGHT, Pattern, Role
from quantonnx.target import BiasKind, FormatRequest, Target

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


def no_such_format(asked: FormatRequest) -> str | None:
    """Why ONNX Runtime has no kernel for a format, or gives wrong results with it (`benchmarks/format_combinations.py`
    shows which), and what to use; or None."""
    fmt = asked.format
    if asked.role.on_activation:
        if asked.dynamic:
            return activation_refusal(fmt)
        return "files with float8 activations do not load there; use int8 or uint8" if fmt.float8 else None
    if asked.role is Role.BIAS or asked.activation is None:
        return None
    if asked.dynamic:
        return refusal(asked.operator, fmt)
    if asked.activation.n_bits > 8:
        wide = fmt.n_bits > 8 and not fmt.float8
        return "16-bit weights overflow its int32 biases beside 16-bit activations; use 8 bits" if wide else None
    return _beside_integers(asked)


def _beside_integers(asked: FormatRequest) -> str | None:
    fmt, native = asked.format, asked.format.storage is Storage.NATIVE
    if fmt.float8 or (native and fmt.n_bits == 2):
        kind = "float8" if fmt.float8 else "native 2-bit"
        return f"files with {kind} weights beside integer activations do not load there; use int8 (`storage: narrowed`)"
    if fmt.group_size and not (native and fmt.n_bits == 4) and fmt.n_bits <= 8:
        return "8-bit groups beside integer activations fail when run there; say `activation: null`, or `per_channel`"
    if not fmt.group_size and fmt.axis is not None and asked.channel_axis not in (None, fmt.axis):
        return f"scales along axis {fmt.axis} give wrong results there; output channels are axis {asked.channel_axis}"
    return None


def _convolution(points_of: type[ConvBN]) -> type[Pattern]:
    return points_of.with_points(x=INPUT, weight=lambda w: WEIGHT(w, axis=output_axis), bias=BIAS, output=OUTPUT)


signed = TensorFormat(n_bits=8, signed=True, symmetric=True)
attention = ScaledDotProductAttention.with_points(p=INPUT, v=lambda v: INPUT(v, format=signed))


# printed by `python benchmarks/cost_model.py onnxruntime`: ONNX Runtime 1.31, one thread of a Xeon with AVX512-VNNI
costs = CostModel(
    float_costs={
        "Conv": Cost(663, 0.0115, 0.0134, 0.13),
        "depthwise": Cost(1010, 0.0154, 0.0269, 0.571),
        "grouped": Cost(23300, 0, 1.25, 0.62),
        "MatMul": Cost(385, 0.0113, 0.0215, 0.0368),
        "product": Cost(6600, 0.0133, 0),
        "Add": Cost(307, 0, 0.0596),
        "Mul": Cost(2030, 0, 0.116),
        "Concat": Cost(1890, 0, 0.131),
        "Sigmoid": Cost(255, 0, 0.177),
        "GlobalAveragePool": Cost(1510, 0, 0.262),
        "QuantizeLinear": Cost(1570, 0, 0.115),
        "DequantizeLinear": Cost(1430, 0, 0.0867),
    },
    integer_costs={
        "Conv": Cost(1210, 0.00273, 0.0829, 0.0276),
        "depthwise": Cost(3080, 0.0357, 0.0469),
        "grouped": Cost(26400, 0, 1.34),
        "MatMul": Cost(1320, 0.000582, 0.205, 0.0157),
        "product": Cost(8220, 0.00148, 0.0867),
        "Add": Cost(462, 0, 0.0535),
        "Mul": Cost(2640, 0, 0.0939),
        "Concat": Cost(2130, 0, 0.0262),
        "Sigmoid": Cost(299, 0, 0.135),
        "GlobalAveragePool": Cost(1890, 0, 0.0429),
    },
    fills_gaps=True,
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
    method="auto",
    recipe=("scale_inputs",),
    glue=frozenset({"AveragePool", "Sigmoid", "Add", "Mul", "Concat", "ResizeNearest"}),
    memory_bound=depthwise,
    rules=(transposed_convolution,),
    same_scale=frozenset(
        {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather"}
    ),
    costs=costs,
    refuses=no_such_format,
)
