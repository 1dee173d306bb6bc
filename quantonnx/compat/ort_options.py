"""Every key of quantize_static's extra_options: what it is in our configuration, or why it needs nothing, or why not.

The keys are those that ONNX Runtime 1.31 reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quantonnx.compat.ort_settings import Settings, overrides
from quantonnx.errors import ConfigError
from quantonnx.plan import near

Options = Mapping[str, Any]
Translation = Callable[[Settings, Any, Options], None]

HARMLESS = {
    "CalibMaxIntermediateOutputs": "calibration takes constant memory always",
    "DefaultTensorType": "a tensor whose type cannot be told stays in float",
    "QDQKeepRemovableActivations": "activations are never removed from the file; the runtime does so",
}
"""Keys that change nothing, with the reason."""

PARTS = frozenset(
    {
        "CalibMovingAverage",
        "CalibMovingAverageConstant",
        "CalibPercentile",
        "CalibStridedMinMax",
        "MatMulConstBOnly",
        "SmoothQuantAlpha",
    }
)
"""Keys that are read where what they belong to is: the method, the samples, the choice of operators, SmoothQuant."""

REFUSED: Mapping[str, tuple[Any, str]] = {
    "DedicatedQDQPair": (False, "one pair serves every reader of a tensor: leave it out"),
    "EnableSubgraph": (False, "bodies of If and Loop stay in float: leave it out"),
    "QDQDisableWeightAdjustForInt32Bias": (False, "scales grow until the bias fits: say QuantizeBias=False instead"),
    "SmoothQuantFolding": (True, "factors are always folded into the operator before: leave it out"),
}
"""Keys that have one value only, with the reason."""

_DIRECT = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_NNAPI_SIGMOID = [0.0, 255 / 256]


def translate(options: Options, settings: Settings) -> None:
    """Adds what the options say. Raises ConfigError for an unknown key and for a value that has no equivalent."""
    known = [*TRANSLATED, *PARTS, *HARMLESS, *REFUSED]
    for key, value in options.items():
        if key in REFUSED:
            only, hint = REFUSED[key]
            if bool(value) != only:
                raise ConfigError(f"extra_options.{key} is {value!r}", hint)
        elif key in TRANSLATED:
            TRANSLATED[key](settings, value, options)
        elif key not in HARMLESS and key not in PARTS:
            raise ConfigError(f"extra_options has the unknown key {key!r}", near(str(key), known) or "leave it out")


def _activation_symmetric(settings: Settings, value: Any, options: Options) -> None:
    if value:
        settings.activation["symmetric"] = True
        settings.activation.pop("narrow_range", None)


def _restricted(settings: Settings, value: Any, options: Options) -> None:
    """Zero is the lowest code or the middle one: just what unsigned symmetric codes are."""
    dtype = settings.activation["dtype"]
    if value and not dtype.startswith("uint"):
        raise ConfigError(
            f"extra_options.ActivationRestrictedAsymmetric is set for {dtype}", "it needs QUInt8 activations"
        )
    _activation_symmetric(settings, value, options)


def _range_symmetric(settings: Settings, value: Any, options: Options) -> None:
    """Of entropy and percentile it concerns the histogram, whose magnitudes are searched here too."""
    method = settings.activation["calibration_method"]
    by_extremes = method == "minmax" or "averaging_constant" in method
    if value and by_extremes and not settings.activation.get("symmetric"):
        settings.activation |= {"symmetric": True, "narrow_range": False}


def _weight_symmetric(settings: Settings, value: Any, options: Options) -> None:
    if value is not None:
        settings.weight["symmetric"] = bool(value)


def _float_weights(settings: Settings, value: Any, options: Options) -> None:
    settings.others["weight_storage"] = "float" if value else "integer"


def _bias(settings: Settings, value: Any, options: Options) -> None:
    if not value:
        settings.others["bias"] = None


def _outputs_off(settings: Settings, value: Any, options: Options) -> None:
    for name in value or ():
        settings.add("op_types", str(name), {"outputs": None, "optional": True})


def _axes(settings: Settings, value: Any, options: Options) -> None:
    for name, axis in (value or {}).items() if settings.weight.get("per_channel") else ():
        settings.add("op_types", str(name), {"states": {"weight": {"axis": int(axis)}}, "optional": True})


def _smooth(settings: Settings, value: Any, options: Options) -> None:
    if value:
        settings.others["smooth_quant"] = {"alpha": options.get("SmoothQuantAlpha", 0.5)}


def _contrib(settings: Settings, value: Any, options: Options) -> None:
    settings.others["contrib_ops"] = bool(value)


def _min_range(settings: Settings, value: Any, options: Options) -> None:
    if value is not None:
        settings.activation["min_range"] = value


def _blocks(settings: Settings, value: Any, options: Options) -> None:
    if value:
        settings.weight.pop("per_channel", None)
        settings.weight["group_size"] = value


def _direct(settings: Settings, value: Any, options: Options) -> None:
    """What only moves data gets a pair on both sides, whatever its input is."""
    for name in _DIRECT if value else ():
        settings.add("op_types", name, {"inputs": {0: {}}, "outputs": {0: {}}, "optional": True})


def _sigmoid(settings: Settings, value: Any, options: Options) -> None:
    for node in settings.source.graph.nodes if value else ():
        if node.op == "Sigmoid":
            settings.add("tensors", node.outputs[0].name, {"range": _NNAPI_SIGMOID, "optional": True})


def _tensors(settings: Settings, value: Any, options: Options) -> None:
    overrides(settings, value or {})


TRANSLATED: Mapping[str, Translation] = {
    "ActivationSymmetric": _activation_symmetric,
    "ActivationRestrictedAsymmetric": _restricted,
    "AddQDQPairToWeight": _float_weights,
    "BlockSize": _blocks,
    "CalibTensorRangeSymmetric": _range_symmetric,
    "ForceQuantizeNoInputCheck": _direct,
    "MinimumRealRange": _min_range,
    "OpTypesToExcludeOutputQuantization": _outputs_off,
    "QDQOpTypePerChannelSupportToAxis": _axes,
    "QuantizeBias": _bias,
    "SmoothQuant": _smooth,
    "TensorQuantOverrides": _tensors,
    "UseQDQContribOps": _contrib,
    "WeightSymmetric": _weight_symmetric,
    "extra.Sigmoid.nnapi": _sigmoid,
}
