"""Quantizes float ONNX models: Q/DQ pairs stand exactly where the target's compiler wants them.

import quantonnx as qx

qx.quantize("resnet50.onnx", samples, target="onnxruntime").save("resnet50.int8.onnx")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantonnx.calibrating import calibrate
    from quantonnx.calibration.collected import Statistics
    from quantonnx.calibration.extensions import ort_extensions
    from quantonnx.calibration.ranges import Method as CalibrationMethod
    from quantonnx.config import OpsToSkip, QuantConfig, SmoothQuantConfig, TensorQuantConfig
    from quantonnx.costs import Cost, CostModel
    from quantonnx.drawing import draw, draw_before_after
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
    from quantonnx.quantized import QuantizedModel, insert_qdq
    from quantonnx.rewriting import make_plan, transform
    from quantonnx.surveying import collect_statistics
    from quantonnx.target import BiasKind, FormatRequest, Target, get_target, known_targets
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
    "Cost",
    "CostModel",
    "DataError",
    "FormatRequest",
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
    "SmoothQuantConfig",
    "Statistics",
    "Target",
    "TargetError",
    "TensorFormat",
    "TensorQuantConfig",
    "calibrate",
    "collect_statistics",
    "compare",
    "const",
    "draw",
    "draw_before_after",
    "either",
    "get_target",
    "insert_qdq",
    "known_targets",
    "make_plan",
    "maybe",
    "op",
    "ort_extensions",
    "quantize",
    "tensor",
    "tensors",
    "transform",
]

_HOMES = {
    "quantonnx.calibration.collected": ("Statistics",),
    "quantonnx.calibration.extensions": ("ort_extensions",),
    "quantonnx.calibration.ranges": ("CalibrationMethod",),
    "quantonnx.config": (
        "OpsToSkip",
        "QuantConfig",
        "SmoothQuantConfig",
        "TensorQuantConfig",
    ),
    "quantonnx.costs": (
        "Cost",
        "CostModel",
    ),
    "quantonnx.drawing": (
        "draw",
        "draw_before_after",
    ),
    "quantonnx.errors": (
        "CalibrationError",
        "ConfigError",
        "DataError",
        "ModelError",
        "OutputError",
        "PatternError",
        "PlanError",
        "QuantonnxError",
        "TargetError",
    ),
    "quantonnx.formats": ("TensorFormat",),
    "quantonnx.model": ("Model",),
    "quantonnx.pattern": (
        "BIAS",
        "INPUT",
        "OUTPUT",
        "RESIDUAL_INPUT",
        "WEIGHT",
        "Conversion",
        "Mismatch",
        "Pattern",
        "const",
        "either",
        "maybe",
        "op",
        "tensor",
        "tensors",
    ),
    "quantonnx.pipeline": ("quantize",),
    "quantonnx.plan": ("Plan",),
    "quantonnx.calibrating": ("calibrate",),
    "quantonnx.quantized": ("QuantizedModel", "insert_qdq"),
    "quantonnx.rewriting": (
        "make_plan",
        "transform",
    ),
    "quantonnx.surveying": ("collect_statistics",),
    "quantonnx.target": (
        "BiasKind",
        "FormatRequest",
        "Target",
        "get_target",
        "known_targets",
    ),
    "quantonnx.verification": ("compare",),
}
_RENAMED = {"CalibrationMethod": "Method"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for, so that the command line starts fast."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), _RENAMED.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
