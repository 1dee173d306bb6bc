"""What a call of quantize_static says about formats, collected as settings of our configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.compat.ort_names import CalibrationMethod, dtype_of, word
from quantonnx.errors import ConfigError
from quantonnx.model import Model
from quantonnx.plan import near

FLOAT8 = "float8e4m3fn"
_NARROW = ("int8", "int16")
_KEYS = ("quant_type", "axis", "scale", "zero_point", "symmetric", "reduce_range", "rmin", "rmax", "convert")


@dataclass
class Settings:
    """Keyword arguments of QuantConfig as they come together for a model."""

    source: Model
    activation: dict[str, Any]
    weight: dict[str, Any]
    others: dict[str, Any] = field(default_factory=dict)

    def add(self, section: str, name: str, rule: dict[str, Any]) -> None:
        """Adds to the rule for a name."""
        known = self.others.setdefault(section, {}).setdefault(name, {})
        known |= rule

    def values(self) -> dict[str, Any]:
        """Returns the keyword arguments."""
        return {"activation": narrowed(self.activation), "weight": narrowed(self.weight), **self.others}


def narrowed(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns a spec with the codes that ONNX Runtime uses: symmetric ones of 8 and 16 bits leave out the lowest."""
    if spec.get("symmetric") and spec.get("dtype") in _NARROW and "narrow_range" not in spec:
        return {**spec, "narrow_range": True}
    return spec


def activation_of(activation_type: Any, calibrate_method: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the spec of activations: asymmetric, as ONNX Runtime's are unless an option says otherwise."""
    dtype = dtype_of(activation_type, "activation_type")
    symmetric = {} if dtype == FLOAT8 else {"symmetric": False}
    return {"dtype": dtype, **symmetric, "calibration_method": _method(calibrate_method, options)}


def weight_of(weight_type: Any, *, per_channel: bool, reduce_range: bool) -> dict[str, Any]:
    """Returns the spec of weights: unsigned ones are asymmetric, all others symmetric, as in ONNX Runtime."""
    dtype = dtype_of(weight_type, "weight_type")
    found: dict[str, Any] = {"dtype": dtype, "per_channel": per_channel}
    if dtype != FLOAT8:
        found["symmetric"] = not dtype.startswith("uint")
    return found | (reduced(dtype, "reduce_range") if reduce_range else {})


def reduced(dtype: str, where: str) -> dict[str, Any]:
    """Returns the type with one bit less than `dtype`."""
    found = re.fullmatch(r"(u?int)(\d+)", dtype)
    if found is None:
        raise ConfigError(f"{where} is set for {dtype}", "only integers have a smaller range: leave it out")
    return {"dtype": f"{found[1]}{int(found[2]) - 1}"}


def _method(calibrate_method: Any, options: Mapping[str, Any]) -> str | dict[str, Any]:
    method = word(CalibrationMethod, calibrate_method, "calibrate_method")
    if method is CalibrationMethod.Distribution:
        raise ConfigError("calibrate_method is 'Distribution'", "it has no range: use MinMax, also for float8")
    if method is CalibrationMethod.Percentile:
        return {"method": "percentile", "percentile": options.get("CalibPercentile", 99.999)}
    if method is CalibrationMethod.MinMax and options.get("CalibMovingAverage"):
        constant = options.get("CalibMovingAverageConstant", 0.01)
        return {"method": "moving_average", "averaging_constant": constant}
    return method.name.lower()


def overrides(settings: Settings, entries: Any) -> None:
    """Adds the rules for tensors that TensorQuantOverrides say."""
    if not isinstance(entries, Mapping):
        raise ConfigError(f"TensorQuantOverrides is {type(entries).__name__}", "expected a mapping by tensor name")
    for name, channels in entries.items():
        where = f"TensorQuantOverrides.{name}"
        if not isinstance(channels, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in channels):
            raise ConfigError(f"{where} is {channels!r}", "expected a list of mappings, one for each channel")
        for entry in channels:
            _refuse(entry, where)
        if any(channels):
            settings.add("tensors", str(name), _rule(settings, str(name), channels, where))


def _refuse(entry: Mapping[str, Any], where: str) -> None:
    unknown = next((key for key in entry if key not in _KEYS), None)
    if unknown is not None:
        raise ConfigError(f"{where} has the unknown key {unknown!r}", near(str(unknown), _KEYS))
    if entry.get("convert"):
        raise ConfigError(f"{where}.convert is set", "a tensor has one format: give each reader its own in `op_names`")
    for one, other in (("scale", "zero_point"), ("rmin", "rmax")):
        if (one in entry) != (other in entry):
            raise ConfigError(f"{where} has only one of {one} and {other}", "give both")


def _rule(settings: Settings, name: str, channels: Any, where: str) -> dict[str, Any]:
    first, many = channels[0], len(channels) > 1
    constant = isinstance(settings.source.tensors().get(name), gs.Constant)
    default = settings.weight if constant else settings.activation
    dtype = dtype_of(first["quant_type"], f"{where}.quant_type") if "quant_type" in first else default["dtype"]
    rule = {"dtype": dtype} if "quant_type" in first else {}
    if "axis" in first:
        rule |= {"per_channel": True, "axis": int(first["axis"])}
    elif many:
        raise ConfigError(f"{where} has {len(channels)} channels and no axis", "give `axis` in the first")
    if "symmetric" in first:
        rule |= {**narrowed({"dtype": dtype, "symmetric": bool(first["symmetric"])})} | rule
    if first.get("reduce_range"):
        rule |= reduced(dtype, f"{where}.reduce_range")
    return rule | _numbers(channels, where)


def _numbers(channels: Any, where: str) -> dict[str, Any]:
    if not all(entry.keys() >= channels[0].keys() & {"scale", "rmin"} for entry in channels):
        raise ConfigError(f"{where} has numbers for some channels only", "give them for each")
    if "scale" in channels[0]:
        scales = [_number(entry["scale"], f"{where}.scale") for entry in channels]
        points = [int(_number(entry["zero_point"], f"{where}.zero_point")) for entry in channels]
        one = len(channels) == 1
        return {"scale": scales[0] if one else scales, "zero_point": points[0] if one else points}
    if "rmin" in channels[0]:
        if len(channels) > 1:
            raise ConfigError(f"{where} has a range for each channel", "give scale and zero_point for each")
        return {"range": [_number(channels[0][key], f"{where}.{key}") for key in ("rmin", "rmax")]}
    return {}


def _number(value: Any, where: str) -> float:
    """Returns a number that may be one of numpy, even an array that holds just one."""
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "iuf":
        raise ConfigError(f"{where} is {value!r}", "expected one number")
    return float(found.reshape(())) if found.dtype.kind == "f" else int(found.reshape(()))
