"""Quantizes float ONNX models: Q/DQ pairs stand exactly where the target's compiler wants them.

    import quantonnx as qx

    qx.quantize("resnet50.onnx", samples, target="onnxruntime").save("resnet50.int8.onnx")
"""

from quantonnx.calibration.ranges import Method as CalibrationMethod
from quantonnx.config import OpsToSkip, QuantConfig, TensorQuantConfig
from quantonnx.errors import (
    CalibrationError,
    ConfigError,
    DataError,
    ModelError,
    OutputError,
    PatternError,
    PlanError,
    QuantonnxError,
    TargetError,
)
from quantonnx.formats import TensorFormat
from quantonnx.model import Model
from quantonnx.pattern import (
    BIAS,
    INPUT,
    OUTPUT,
    RESIDUAL_INPUT,
    WEIGHT,
    Conversion,
    Mismatch,
    Pattern,
    const,
    either,
    maybe,
    op,
    tensor,
    tensors,
)
from quantonnx.pipeline import quantize
from quantonnx.plan import Plan
from quantonnx.quantized import QuantizedModel, calibrate, insert_qdq
from quantonnx.rewriting import make_plan, transform
from quantonnx.target import BiasKind, Target, get_target, known_targets
from quantonnx.verification import compare

__all__ = [
    "BIAS",
    "INPUT",
    "OUTPUT",
    "RESIDUAL_INPUT",
    "WEIGHT",
    "BiasKind",
    "CalibrationError",
    "CalibrationMethod",
    "ConfigError",
    "Conversion",
    "DataError",
    "Mismatch",
    "Model",
    "ModelError",
    "OpsToSkip",
    "OutputError",
    "Pattern",
    "PatternError",
    "Plan",
    "PlanError",
    "QuantConfig",
    "QuantizedModel",
    "QuantonnxError",
    "Target",
    "TargetError",
    "TensorFormat",
    "TensorQuantConfig",
    "calibrate",
    "compare",
    "const",
    "either",
    "get_target",
    "insert_qdq",
    "known_targets",
    "make_plan",
    "maybe",
    "op",
    "quantize",
    "tensor",
    "tensors",
    "transform",
]
