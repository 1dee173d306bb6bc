"""What can be said about activations only, and what about weights only."""

from __future__ import annotations

from quantonnx.calibration.ranges import Method, RangeMethod
from quantonnx.config.specs import TensorQuantConfig
from quantonnx.errors import ConfigError
from quantonnx.formats import Rounding

_OF_WEIGHTS = {
    "per_channel": "only weights have a scale per channel",
    "axis": "only weights have a scale per channel",
    "group_size": "only weights have scales per group",
    "rounding": "activations are rounded half to even, as QuantizeLinear does",
    "storage": "only weights are stored",
}
_AS_ALWAYS = {"per_channel": False, "rounding": Rounding.HALF_EVEN}
_METHODS_OF_WEIGHTS = (RangeMethod(Method.MINMAX), RangeMethod(Method.MSE))
_OF_ACTIVATIONS = {
    "dynamic": "weights are known before the run",
    "share_with": "weights take their range from their values",
}


def check_activation(spec: TensorQuantConfig | None, where: str) -> None:
    """Raises ConfigError for a setting that only weights have."""
    asked = {name: why for name, why in _OF_WEIGHTS.items() if getattr(spec, name, None) != _AS_ALWAYS.get(name)}
    _refuse(spec, where, asked)
    if spec is not None and spec.is_int32:
        raise ConfigError(f"{where}.dtype is 'int32'", "activations have 2 to 16 bits, or are float8e4m3fn")


def check_weight(spec: TensorQuantConfig | None, where: str) -> None:
    """Raises ConfigError for a setting that only activations have."""
    _refuse(spec, where, _OF_ACTIVATIONS)
    if spec is not None and spec.is_int32 and not where.endswith("bias"):
        raise ConfigError(f"{where}.dtype is 'int32'", "that is for a bias; weights have 2 to 16 bits")
    if spec is not None and spec.calibration_method is not None:
        method = spec.range_method("")
        if method not in _METHODS_OF_WEIGHTS:
            raise ConfigError(f"{where}.calibration_method is '{method}'", "weights take minmax or mse")


def _refuse(spec: TensorQuantConfig | None, where: str, reasons: dict[str, str]) -> None:
    for name, reason in reasons.items():
        value = getattr(spec, name, None)
        if value is not None:
            shown = repr(str(value) if isinstance(value, str) else value)
            raise ConfigError(f"{where}.{name} is {shown}", f"{reason}; leave it out")
