"""Quark's QTensorConfig, of its PyTorch and its ONNX side, as a spec of our configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantonnx.compat.foreign import Section, word_of
from quantonnx.errors import ConfigError
from quantonnx.plan import near

_INTEGERS = {name: name for name in ("int2", "int3", "int4", "uint4", "int8", "uint8", "int16", "uint16")}
_DTYPES = {**_INTEGERS, "int32": "int32", "fp8_e4m3": "float8e4m3fn"}
_DTYPES_ELSEWHERE = frozenset(
    {
        "uint32",
        "bfloat16",
        "float16",
        "fp8_e5m2",
        "fp8_e5m3",
        "fp6_e3m2",
        "fp6_e2m3",
        "fp4",
        "mx",
        "mx6",
        "mx9",
        "bfp16",
    }
)
_METHODS = {
    "PerTensorMinMaxObserver": "minmax",
    "PerChannelMinMaxObserver": "minmax",
    "PerGroupMinMaxObserver": "minmax",
    "PerTensorHistogramObserver": "mse",
    "PerTensorHistogramObserverPro": "mse",
    "PerTensorMSEObserver": "mse",
    "PerTensorPercentileObserver": "percentile",
    "PlaceholderObserver": None,
    "min_max": "minmax",
    "histogram": "mse",
    "histogrampro": "mse",
    "MSE": "mse",
    "percentile": "percentile",
    "MinMax": "minmax",
    "MinMSE": "mse",
    "Percentile": "percentile",
    "LayerwisePercentile": "percentile",
    "Entropy": "entropy",
}
_OF_THE_WEIGHT = ("minmax", None)
_SCHEMES = {
    "per_tensor": "tensor",
    "per_channel": "channel",
    "per_group": "group",
    "Tensor": "tensor",
    "Channel": "channel",
    "Group": "group",
}
_ROUNDINGS = {"half_even": "half_even", "round": "half_away", "floor": "floor"}
_SCALES = {
    "float": "float",
    "float32": "float",
    "Float32": "float",
    "float16": "float16",
    "pof2": "power_of_two",
    "power_of_2": "power_of_two",
    "PowerOf2": "power_of_two",
}
_ONE_VALUE = {
    "block_size": ((), "scales of two-dimensional blocks do not exist here: use per_group"),
    "scale_format": (("float32", "float"), "scales are floats; scale_type restricts them"),
    "scale_calculation_mode": ((), "it belongs to MX formats, which ONNX does not have"),
    "mx_element_dtype": ((), "ONNX has no MX formats"),
    "qat_spec": ((), "training is not part of this configuration"),
    "zero_point_type": (("int32",), "zero points are integers in ONNX"),
    "is_scale_quant": ((False,), "scales are not quantized in ONNX"),
}
_OF_ITS_RUNTIME = ("enable_buffer_reuse", "max_input_numel")
"""How Quark computes, not what."""

Spec = dict[str, Any]


def spec_of(content: Any, where: str, kind: str) -> Spec:
    """Returns the spec of an `activation`, `weight` or `bias`. Raises ConfigError for what ONNX cannot say."""
    if isinstance(content, (list, tuple)):
        if len(content) != 1:
            raise ConfigError(f"{where} is a list of {len(content)} specs", "quantizing in stages does not exist here")
        content = content[0]
    section = Section(content, where)
    section.only(_ONE_VALUE)
    dtype = _dtype(section, kind)
    spec: Spec = {"dtype": dtype}
    if dtype in _INTEGERS:
        spec |= _symmetric(section, dtype)
    spec |= _scales(section, kind) | _granularity(section, kind) | _method(section, kind)
    section.close(("symmetric", *_OF_ITS_RUNTIME))
    return {"dtype": "int32"} if dtype == "int32" else spec


def _dtype(section: Section, kind: str) -> str:
    name = "data_type" if "data_type" in section else "dtype"
    value = section.take(name)
    text = word_of(value).rpartition(".")[2].lower()
    if text not in _DTYPES or (text == "int32" and kind != "bias"):
        known = [known for known in _DTYPES if known != "int32" or kind == "bias"]
        hint = "ONNX does not have it" if text in _DTYPES_ELSEWHERE else near(text, known)
        raise section.error(name, hint or f"known are {', '.join(known)}")
    return _DTYPES[text]


def _symmetric(section: Section, dtype: str) -> Spec:
    """Quark's symmetric codes go from the lowest to the highest."""
    symmetric = section.take("symmetric")
    if symmetric is None:
        return {}
    full = {"narrow_range": False} if symmetric and not dtype.startswith("u") else {}
    return {"symmetric": bool(symmetric), **full}


def _scales(section: Section, kind: str) -> Spec:
    scale_type = _word(section, "scale_type", _SCALES)
    rounding = section.word("round_method", _ROUNDINGS)
    if kind == "activation" and rounding not in (None, "half_even"):
        raise section.error("round_method", "QuantizeLinear rounds activations half to even")
    said = {"scale_type": scale_type, "rounding": rounding if kind != "activation" else None}
    return {name: value for name, value in said.items() if value is not None}


def _granularity(section: Section, kind: str) -> Spec:
    name = "quant_granularity" if "quant_granularity" in section else "qscheme"
    scheme = _word(section, name, _SCHEMES)
    axis, size = section.take("ch_axis"), section.take("group_size")
    if kind == "activation":
        if scheme not in (None, "tensor"):
            raise section.error(name, "an activation has one scale: use per_tensor")
        return {}
    if scheme == "group" and size != -1:
        if axis not in (None, 1, -1):
            raise section.error("ch_axis", "groups lie along the axis that the operator sums over: use 1")
        if not isinstance(size, int) or isinstance(size, bool):
            raise section.error("group_size", "expected the number of values that share a scale")
        return {"group_size": size}
    if scheme == "channel" and axis not in (None, 0):
        raise section.error("ch_axis", "channels are those of the output: use 0, also for ConvTranspose2d")
    return {} if scheme is None else {"per_channel": scheme != "tensor"}


def _method(section: Section, kind: str) -> Spec:
    name = "calibration_method" if "calibration_method" in section else "observer_cls"
    method = _word(section, name, _METHODS)
    dynamic = section.take("is_dynamic")
    if kind == "activation":
        return {"dynamic": True} if dynamic else ({} if method is None else {"calibration_method": method})
    if method not in _OF_THE_WEIGHT and name == "observer_cls":
        raise section.error(name, "a weight takes its range from its values: use a MinMax observer")
    return {}


def _word(section: Section, name: str, known: Mapping[str, Any]) -> Any:
    """A word that may have the name of its enum before it: `CalibMethod.MinMSE`."""
    value = section.take(name)
    if value is None:
        return None
    text = word_of(value).rpartition(".")[2]
    if text not in known:
        raise section.error(name, near(text, known) or f"known are {', '.join(known)}")
    return known[text]
