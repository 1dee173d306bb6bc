"""Models of one node each for the layers of networks, whose gradients are compared with finite differences."""

from __future__ import annotations

from torch_gradient_cases import GradientCase

_IMAGE = (1, 4, 5, 6)

CONVOLUTION = [
    GradientCase("y = Conv <pads = [1, 2]> (a, b, c)", ((2, 4, 7), (6, 4, 3), (6,))),
    GradientCase("y = Conv <group = 2, strides = [2, 1], pads = [1, 0, 0, 2]> (a, b)", (_IMAGE, (4, 2, 3, 2))),
    GradientCase('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (a, b, c)', (_IMAGE, (2, 4, 3, 2), (2,))),
    GradientCase('y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (a, b)', (_IMAGE, (2, 4, 2, 3))),
    GradientCase('y = Conv <auto_pad = "VALID", dilations = [1, 2]> (a, b)', (_IMAGE, (2, 4, 2, 3))),
    GradientCase(
        "y = Conv <dilations = [1, 1, 2], pads = [1, 1, 1, 1, 1, 1]> (a, b)", ((1, 2, 3, 4, 4), (2, 2, 2, 2, 2))
    ),
    GradientCase("y = ConvTranspose <strides = [2], output_padding = [1]> (a, b, c)", ((2, 3, 4), (3, 2, 3), (2,))),
    GradientCase("y = ConvTranspose <group = 2, pads = [1, 0, 0, 1]> (a, b, c)", (_IMAGE, (4, 1, 3, 3), (2,))),
    GradientCase(
        "y = ConvTranspose <strides = [2, 3], output_shape = [10, 20]> (a, b, c)", (_IMAGE, (4, 2, 3, 3), (2,))
    ),
    GradientCase('y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_LOWER"> (a, b)', (_IMAGE, (4, 2, 3, 3))),
    GradientCase(
        "y = Col2Im <strides = [2, 1], pads = [1, 0, 0, 1]> (a, i, k)",
        ((1, 12, 20),),
        "int64[2] i = {7, 6}, int64[2] k = {2, 3}",
    ),
    GradientCase(
        "y = DeformConv <group = 2, offset_group = 2, pads = [1, 0, 1, 0], kernel_shape = [3, 2]> (a, b, c, d, e)",
        (_IMAGE, (2, 2, 3, 2), (1, 24, 5, 5), (2,), (1, 12, 5, 5)),
    ),
]

_POOLS = (
    "<kernel_shape = [3], strides = [2], ceil_mode = 1>",
    "<kernel_shape = [2, 3], strides = [2, 2], pads = [1, 0, 0, 2], ceil_mode = 1>",
    "<kernel_shape = [2, 3], pads = [1, 1, 1, 1]>",
    "<kernel_shape = [2, 3], dilations = [2, 1], pads = [1, 1, 1, 1]>",
)


def _pooled(op: str, settings: str, more: str = "", outputs: str = "float y") -> GradientCase:
    shape = (2, 2, 6) if "[3]," in settings else (1, 2, 5, 6)
    given = f"{settings[:-1]}{', ' if more else ''}{more}>"
    results = "y, z" if "," in outputs else "y"
    return GradientCase(f"{results} = {op} {given} (a)", (shape,), low=0.1, outputs=outputs, opset=20)


POOLING = [
    *[_pooled(op, settings) for op in ("MaxPool", "AveragePool", "LpPool") for settings in _POOLS],
    *[_pooled("AveragePool", settings, "count_include_pad = 1") for settings in _POOLS],
    *[_pooled("MaxPool", settings, "storage_order = 1", "float y, int64 z") for settings in _POOLS[1:]],
    GradientCase('y = AveragePool <kernel_shape = [2, 3], auto_pad = "SAME_UPPER", strides = [2, 2]> (a)', (_IMAGE,)),
    GradientCase("y = LpPool <kernel_shape = [2, 2], p = 3> (a)", (_IMAGE,)),
    GradientCase("y = GlobalAveragePool (a)", (_IMAGE,)),
    GradientCase("y = GlobalMaxPool (a)", ((2, 3, 4),)),
    GradientCase("y = GlobalLpPool <p = 3> (a)", (_IMAGE,)),
    GradientCase(
        "y = MaxUnpool <kernel_shape = [2], strides = [2]> (a, i)", ((1, 2, 2),), "int64[1,2,2] i = {0, 3, 4, 6}"
    ),
]

_COLUMN = "float[4] s = {0.5, -1, 2, 1.5}, float[4] t = {1, 0.3, -0.2, 0.1}"

NORMALIZATION = [
    GradientCase("y = LayerNormalization <axis = 1> (a, b, c)", ((2, 3, 4), (3, 4), (3, 4))),
    GradientCase("y = LayerNormalization <axis = -2> (a, b, c)", ((2, 3, 4), (4,), (3, 1))),
    GradientCase("y = LayerNormalization (a, b)", ((2, 3, 4), (4,))),
    GradientCase("y, z, w = LayerNormalization (a, b)", ((2, 3, 4), (4,)), outputs="float y, float z, float w"),
    GradientCase("y = RMSNormalization <axis = -2> (a, b)", ((2, 3, 4), (3, 4)), opset=23),
    GradientCase("y = RMSNormalization (a, b)", ((2, 3, 4), (4,)), opset=23),
    GradientCase("y = SimplifiedLayerNormalization (a, b)", ((2, 3, 4), (4,))),
    GradientCase("y = GroupNormalization <num_groups = 2> (a, b, c)", ((2, 4, 3), (2,), (2,)), opset=18),
    GradientCase("y = GroupNormalization <num_groups = 2> (a, b, c)", ((2, 4, 3), (4,), (4,)), opset=21),
    GradientCase("y = InstanceNormalization (a, b, c)", ((2, 3, 2, 3), (3,), (3,))),
    GradientCase("y = BatchNormalization (a, b, c, s, t)", ((2, 4, 3), (4,), (4,)), _COLUMN.replace("-0.2", "0.2")),
    GradientCase("y = LRN <size = 3, alpha = 0.5> (a)", (_IMAGE,)),
    GradientCase("y = LpNormalization <axis = 1, p = 1> (a)", ((2, 3),)),
    GradientCase("y = LpNormalization <axis = 0> (a)", ((2, 3),)),
    GradientCase("y = MeanVarianceNormalization <axes = [0, 2]> (a)", ((2, 3, 4),)),
]

_SPREAD = ((5,), (1, 5), (3, 1), (3, 5), ())

LINEAR = [
    *[GradientCase("y = Gemm <alpha = 0.5, beta = 2.0> (a, b, c)", ((3, 4), (4, 5), shape)) for shape in _SPREAD],
    GradientCase("y = Gemm <transA = 1> (a, b, c)", ((4, 3), (4, 5), (5,))),
    GradientCase("y = Gemm <transB = 1> (a, b)", ((3, 4), (5, 4)), opset=13),
    GradientCase("y = Gemm <transB = 1, alpha = 0.3> (a, b)", ((3, 4), (5, 4)), opset=13),
    GradientCase("y = MatMul (a, b)", ((2, 1, 3, 4), (2, 4, 5))),
    GradientCase("y = MatMul (a, b)", ((4,), (2, 4, 5))),
    GradientCase("y = MatMul (a, b)", ((2, 3, 4), (4,))),
    GradientCase('y = Einsum <equation = "b i d, b j d -> bij"> (a, b)', ((2, 3, 4), (2, 2, 4))),
    GradientCase('y = Einsum <equation = "...ii->...i"> (a)', ((2, 3, 3),)),
    GradientCase("y = Det (a)", ((2, 3, 3),)),
]

_PLAIN = ("Celu", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "LogSoftmax", "Mish", "Selu", "Softmax", "Softplus")

ACTIVATION = [
    *[
        GradientCase(f"y = {op} (a)", low=-2, high=2)
        for op in (*_PLAIN, "Softsign", "Gelu", "ThresholdedRelu", "Shrink")
    ],
    GradientCase('y = Gelu <approximate = "tanh"> (a)'),
    GradientCase("y = Swish <alpha = 1.3> (a)", opset=24),
    GradientCase("y = Clip (a, l, h)", ((2, 3),), "float l = {-0.5}, float h = {0.6}"),
    GradientCase("y = Clip (a, b, h)", ((2, 3), ()), "float h = {0.6}"),
    GradientCase("y = Clip <max = 0.5> (a)", opset=7),
    GradientCase("y = Softmax <axis = 1> (a)", ((2, 3, 4),), opset=11),
    GradientCase("y = LogSoftmax <axis = 0> (a)", ((2, 3, 4),), opset=11),
    GradientCase("y = Softmax <axis = 1> (a)", ((2, 3, 4),)),
    GradientCase("y = PRelu (a, b)", ((2, 3, 4), (3, 1)), low=-1.2),
    GradientCase("y = PRelu (a, b)", ((2, 3, 4), (4,)), low=-1.2),
    GradientCase("y = PRelu (a, b)", ((2, 3), (1,)), low=-1.2),
]

_WEIGHTS = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(
    op: str, direction: str, more: str = "", extra: tuple[tuple[int, ...], ...] = (), lens: str = ""
) -> GradientCase:
    ways, gates = (2 if direction == "bidirectional" else 1), _WEIGHTS[op]
    shapes = ((3, 2, 2), (ways, gates * 3, 2), (ways, gates * 3, 3), (ways, gates * 6), *extra)
    results = ("y, z, w", "float y, float z, float w") if op == "LSTM" else ("y, z", "float y, float z")
    inputs = ", ".join(["a", "b", "c", "d", lens, *"efg"[: len(extra)]])
    node = f'{results[0]} = {op} <hidden_size = 3, direction = "{direction}"{more}> ({inputs})'
    return GradientCase(node, shapes, "int32[2] n = {3, 1}" if lens else "", outputs=results[1])


_STATE = (1, 2, 3)

RECURRENT = [
    *[_recurrent(op, way) for op in _WEIGHTS for way in ("forward", "reverse", "bidirectional")],
    *[_recurrent(op, "bidirectional", lens="n") for op in _WEIGHTS],
    *[_recurrent("GRU", way, ", linear_before_reset = 1", ((_STATE),)) for way in ("forward", "reverse")],
    _recurrent("LSTM", "forward", "", (_STATE, _STATE, (1, 9))),
    _recurrent("LSTM", "reverse", ", clip = 0.8, input_forget = 1"),
    _recurrent("LSTM", "forward", ', activations = ["HardSigmoid", "Softsign", "Elu"], activation_alpha = [0.3, 0.8]'),
    _recurrent("RNN", "forward", ', activations = ["Softplus"]', (_STATE,)),
]

_SCALES = "float[4] s = {1, 1, 1.6, 0.7}"
_MODES = [f'mode = "{mode}", coordinate_transformation_mode = "{way}"' for mode, way in (
    ("linear", "half_pixel"), ("linear", "align_corners"), ("linear", "asymmetric"), ("cubic", "half_pixel"),
    ("cubic", "asymmetric"), ("nearest", "half_pixel"), ("nearest", "asymmetric"), ("linear", "pytorch_half_pixel"),
)]  # fmt: skip

RESIZING = [
    *[GradientCase(f"y = Resize <{mode}> (a, , s)", (_IMAGE,), _SCALES, opset=19) for mode in _MODES],
    GradientCase(
        'y = Resize <mode = "linear", antialias = 1> (a, , s)', (_IMAGE,), "float[4] s = {1, 1, 0.5, 0.4}", opset=18
    ),
    GradientCase(
        'y = Resize <mode = "cubic", antialias = 1, exclude_outside = 1> (a, , s)',
        (_IMAGE,),
        "float[4] s = {1, 1, 0.5, 0.4}",
        opset=18,
    ),
    GradientCase('y = Resize <mode = "cubic", exclude_outside = 1> (a, , s)', (_IMAGE,), _SCALES),
    GradientCase(
        'y = Resize <mode = "linear", axes = [1, 2], keep_aspect_ratio_policy = "not_larger"> (a, , , s)',
        ((1, 5, 6, 2),),
        "int64[2] s = {8, 9}",
    ),
    GradientCase(
        'y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"> (a, r, , s)',
        (_IMAGE,),
        "float[8] r = {0, 0, 0.1, 0.2, 1, 1, 0.8, 1.2}, int64[4] s = {1, 4, 4, 3}",
        opset=19,
    ),
    GradientCase('y = Resize <mode = "linear"> (a, s)', (_IMAGE,), _SCALES, opset=10),
    GradientCase('y = Resize <mode = "nearest"> (a, , s)', (_IMAGE,), "float[4] s = {1, 1, 2, 3}", opset=13),
    GradientCase('y = Upsample <mode = "linear"> (a, s)', (_IMAGE,), "float[4] s = {1, 1, 2, 3}", opset=9),
    GradientCase("y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (a)", (_IMAGE,), opset=7),
]

PADDING = [
    *[
        GradientCase(f'y = Pad <mode = "{mode}"> (a, p)', (_IMAGE,), "int64[8] p = {0, 0, 1, 2, 0, 0, 3, 0}", opset=19)
        for mode in ("constant", "reflect", "edge", "wrap")
    ],
    *[
        GradientCase(f'y = Pad <mode = "{mode}"> (a, p)', ((3, 4),), "int64[4] p = {1, -1, 2, 2}", opset=19)
        for mode in ("constant", "reflect", "edge")
    ],
    GradientCase("y = Pad (a, p, v, x)", ((2, 3),), "int64[2] p = {1, 2}, float v = {0.5}, int64[1] x = {-1}"),
    GradientCase("y = Pad (a, p, b)", ((2, 3), ()), "int64[4] p = {1, 2, 0, 1}"),
    GradientCase('y = Pad <mode = "edge", pads = [1, 0, 0, 2]> (a)', opset=7),
    GradientCase("y = CenterCropPad <axes = [0, 2]> (a, s)", ((2, 3, 6),), "int64[2] s = {5, 3}"),
]

_GRID = ((1, 2, 4, 5), (1, 3, 2, 2))

SAMPLING = [
    *[
        GradientCase(f'y = GridSample <mode = "{mode}", padding_mode = "{pad}"> (a, b)', _GRID, low=-1.2, high=1.1)
        for mode in ("linear", "cubic")
        for pad in ("zeros", "border", "reflection")
    ],
    GradientCase('y = GridSample <mode = "bilinear", align_corners = 1> (a, b)', _GRID, opset=16),
    GradientCase("y = AffineGrid (a, s)", ((2, 2, 3),), "int64[4] s = {2, 1, 3, 4}"),
    GradientCase(
        "y = RoiAlign <output_height = 2, output_width = 3, sampling_ratio = 2> (a, r, i)",
        (_IMAGE,),
        "float[2,4] r = {0.3, 0.4, 3.7, 4.2, 1, 0, 9, 3}, int64[2] i = {0, 0}",
    ),
    GradientCase(
        'y = RoiAlign <mode = "max", output_height = 2, output_width = 2> (a, r, i)',
        (_IMAGE,),
        "float[2,4] r = {0.3, 0.4, 3.7, 4.2, 1, 0, 9, 3}, int64[2] i = {0, 0}",
        opset=10,
    ),
    GradientCase(
        "y = MaxRoiPool <pooled_shape = [2, 2]> (a, r)",
        (_IMAGE,),
        "float[2,5] r = {0, 0.3, 0.4, 3.7, 4.2, 0, 1, 0, 5, 3}",
    ),
]

_HEADS = ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 3))

ATTENTION = [
    GradientCase("y = Attention (a, b, c)", _HEADS, opset=23),
    GradientCase("y = Attention <is_causal = 1> (a, b, c)", ((1, 2, 4, 4),) * 3, opset=23),
    GradientCase("y = Attention <softcap = 0.7> (a, b, c, d)", (*_HEADS, (3, 5)), opset=23),
    GradientCase(
        "y = Attention <q_num_heads = 4, kv_num_heads = 2, scale = 0.3> (a, b, c)",
        ((2, 3, 8), (2, 5, 4), (2, 5, 6)),
        opset=23,
    ),
    GradientCase(
        "y = Attention <is_causal = 1> (a, b, c, m)",
        ((1, 1, 3, 4), (1, 1, 3, 4), (1, 1, 3, 2)),
        "bool[3,3] m = {1,1,1,0,1,1,1,0,1}",
        opset=23,
    ),
    GradientCase(
        "y, z, w = Attention <is_causal = 1> (a, b, c, , d, e)",
        (*_HEADS, (1, 2, 2, 4), (1, 2, 2, 3)),
        outputs="float y, float z, float w",
        opset=23,
    ),
    GradientCase("y = RotaryEmbedding (a, b, c)", ((1, 2, 3, 4), (1, 3, 2), (1, 3, 2)), opset=23),
    GradientCase(
        "y = RotaryEmbedding <interleaved = 1, num_heads = 2, rotary_embedding_dim = 2> (a, b, c, i)",
        ((1, 3, 8), (5, 1), (5, 1)),
        "int64[1,3] i = {4, 0, 2}",
        opset=23,
    ),
]

_TARGETS = "int64[2,2] t = {0, 2, 1, 0}"

LOSSES = [
    *[GradientCase(f'y = {op} <reduction = "{how}", ignore_index = 1> (a, t, w)', ((2, 3, 2),), _TARGETS + ", float[3] w = {1, 2, 0.5}", low=0.1) for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss") for how in ("mean", "sum", "none")],
    GradientCase("y, z = SoftmaxCrossEntropyLoss (a, t)", ((2, 3),), "int64[2] t = {0, 2}", outputs="float y, float z"),
    GradientCase("y = DFT (a)", ((1, 6, 1),), opset=20),
    GradientCase("y = DFT <onesided = 1> (a, n, x)", ((2, 6, 1),), "int64 n = {5}, int64 x = {1}", opset=20),
    GradientCase("y = STFT (a, s, b)", ((1, 10, 1), (4,)), "int64 s = {3}"),
]  # fmt: skip

LAYERS = [
    *(CONVOLUTION + POOLING + NORMALIZATION + LINEAR + ACTIVATION + RECURRENT),
    *(RESIZING + PADDING + SAMPLING + ATTENTION + LOSSES),
]
"""The cases of all families."""

NO_LAYER_GRADIENT = frozenset(
    {"BlackmanWindow", "HammingWindow", "Hardmax", "HannWindow", "MelWeightMatrix", "NonMaxSuppression"}
)
"""Operators whose result has no gradient, or zero everywhere."""
