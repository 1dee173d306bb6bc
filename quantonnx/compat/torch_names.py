"""What PyTorch's functions are called in ONNX."""

from __future__ import annotations

import onnx

from quantonnx.errors import ConfigError
from quantonnx.plan import near

_BY_FUNCTION: dict[str, tuple[str, ...]] = {
    "adaptive_avg_pool2d": ("GlobalAveragePool", "AveragePool"),
    "adaptive_max_pool2d": ("GlobalMaxPool", "MaxPool"),
    "add": ("Add",),
    "addmm": ("Gemm",),
    "avg_pool1d": ("AveragePool",),
    "avg_pool2d": ("AveragePool",),
    "avg_pool3d": ("AveragePool",),
    "batch_norm": ("BatchNormalization",),
    "bmm": ("MatMul",),
    "cat": ("Concat",),
    "clamp": ("Clip",),
    "conv1d": ("Conv",),
    "conv2d": ("Conv",),
    "conv3d": ("Conv",),
    "conv_transpose1d": ("ConvTranspose",),
    "conv_transpose2d": ("ConvTranspose",),
    "conv_transpose3d": ("ConvTranspose",),
    "div": ("Div",),
    "elu": ("Elu",),
    "embedding": ("Gather",),
    "exp": ("Exp",),
    "flatten": ("Flatten", "Reshape"),
    "gelu": ("Gelu",),
    "group_norm": ("GroupNormalization",),
    "gru": ("GRU",),
    "hardsigmoid": ("HardSigmoid",),
    "hardswish": ("HardSwish",),
    "hardtanh": ("Clip",),
    "instance_norm": ("InstanceNormalization",),
    "interpolate": ("Resize",),
    "layer_norm": ("LayerNormalization",),
    "leaky_relu": ("LeakyRelu",),
    "linear": ("Gemm", "MatMul"),
    "log_softmax": ("LogSoftmax",),
    "lstm": ("LSTM",),
    "matmul": ("MatMul",),
    "max_pool1d": ("MaxPool",),
    "max_pool2d": ("MaxPool",),
    "max_pool3d": ("MaxPool",),
    "maximum": ("Max",),
    "mean": ("ReduceMean",),
    "minimum": ("Min",),
    "mm": ("MatMul",),
    "mul": ("Mul",),
    "neg": ("Neg",),
    "pad": ("Pad",),
    "permute": ("Transpose",),
    "pow": ("Pow",),
    "prelu": ("PRelu",),
    "relu": ("Relu",),
    "relu6": ("Clip",),
    "reshape": ("Reshape",),
    "rms_norm": ("RMSNormalization",),
    "scaled_dot_product_attention": ("Attention",),
    "selu": ("Selu",),
    "sigmoid": ("Sigmoid",),
    "softmax": ("Softmax",),
    "sqrt": ("Sqrt",),
    "squeeze": ("Squeeze",),
    "sub": ("Sub",),
    "sum": ("ReduceSum",),
    "tanh": ("Tanh",),
    "transpose": ("Transpose",),
    "unsqueeze": ("Unsqueeze",),
    "upsample": ("Resize",),
    "view": ("Reshape",),
    "where": ("Where",),
}


def onnx_types(name: str, where: str) -> tuple[str, ...]:
    """Returns the operator types of a PyTorch function (`conv2d`), or an ONNX type itself. Raises ConfigError."""
    function = name.rpartition(".")[2].removesuffix("_")
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    if function in _BY_FUNCTION or name in known:
        return _BY_FUNCTION.get(function, (name,))
    raise ConfigError(f"{where} has no operator {name!r}", near(name, [*_BY_FUNCTION, *known]) or "use conv2d or Conv")
