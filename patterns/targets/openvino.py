"""Intel OpenVINO on CPUs.

Measured rules: a Conv or a matrix product is an integer kernel as soon as its input and its weight are quantized, and
fuses what follows it, activation and residual Add included; so pairs stand on inputs and residual inputs only, which
also rounds least. Activations are uint8 with a zero point, weights int8 per output channel with zero point 0 (unsigned
weights turn the kernel back into float), the bias stays float.
"""

from __future__ import annotations

from quantonnx.costs import Cost, CostModel
from quantonnx.formats import Storage, TensorFormat
from quantonnx.pattern import INPUT, Pattern, Role
from quantonnx.target import BiasKind, FormatRequest, Target

from ..activation import gelus
from ..attention import ScaledDotProductAttention
from ..conversions import conversions
from ..convolution import ConvBN, convolutions
from ..linear import embeddings, linears
from ..normalization import normalizations
from ..pooling import poolings


def transposed_convolution(found: Pattern) -> str | None:
    """ConvTranspose is an integer kernel with symmetric activations and one scale for the whole weight only."""
    if isinstance(found, ConvBN) and found.conv.op == "ConvTranspose":
        return f"ConvTranspose {found.conv.name!r} has no integer kernel in OpenVINO for uint8 activations"
    return None


def no_such_format(asked: FormatRequest) -> str | None:
    """Why OpenVINO does not take a format, or computes worse with it than with 8 bits, and what to use; or None."""
    fmt, native = asked.format, asked.format.storage is Storage.NATIVE
    if asked.role is Role.BIAS:
        return "its biases are float; switch the bias off there"
    if asked.dynamic:
        return "it computes dynamic activations in float; leave `dynamic` out"
    if fmt.float8:
        return "it has no float8 kernels on CPUs; use int8 or uint8"
    if asked.role.on_activation:
        wide = "it runs 16-bit activations as dynamic int8, which is less exact than 8 bits; use 8"
        return wide if fmt.n_bits > 8 else None
    if native and fmt.n_bits == 2:
        return "it does not load int2; use `storage: narrowed`"
    by_channel = fmt.group_size is None and fmt.axis is not None
    if native and by_channel and asked.channel_axis not in (None, fmt.axis):
        return f"int4 with scales along axis {fmt.axis} crashes it; the output channels are axis {asked.channel_axis}"
    return None


signed = TensorFormat(n_bits=8, signed=True, symmetric=True)
attention = ScaledDotProductAttention.with_points(
    q=lambda q: INPUT(q, format=signed),
    k=lambda k: INPUT(k, format=signed),
    p=lambda p: INPUT(p, format=signed),
    v=lambda v: INPUT(v, format=signed),
)

# printed by `python benchmarks/cost_model.py openvino`: OpenVINO 2026.4, one thread of a Xeon with AVX512-VNNI
costs = CostModel(
    float_costs={
        "Conv": Cost(1520, 0.0118, 0, 0.161),
        "depthwise": Cost(1140, 0.00573, 0.0411, 0.779),
        "grouped": Cost(0, 0.00173, 0.632, 1.81),
        "MatMul": Cost(53, 0.011, 0.0261, 0.13),
        "QuantizeLinear": Cost(290, 0, 0.297),
    },
    integer_costs={
        "Conv": Cost(2060, 0.0034, 0.0383, 0.0427),
        "depthwise": Cost(1080, 0.0194, 0.0621, 0.5),
        "grouped": Cost(0, 0, 0.266, 0.892),
        "MatMul": Cost(1620, 0.00292, 0.0249, 0.0412),
    },
    fuses_conversions=True,
)

target = Target(
    name="openvino",
    description="Intel OpenVINO CPU: uint8 activations, pairs on inputs and residual inputs only, float bias",
    conversions=conversions,
    patterns=(attention, *normalizations, *gelus, *embeddings, *convolutions, *linears, *poolings),
    activation=TensorFormat(n_bits=8, signed=False, symmetric=False),
    weight=TensorFormat(n_bits=8, signed=True, symmetric=True, narrow_range=True, axis=0),
    bias=BiasKind.FLOAT,
    float_types=frozenset({"float32", "float16"}),
    method="mse",
    rules=(transposed_convolution,),
    transparent=frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}),
    costs=costs,
    refuses=no_such_format,
)
