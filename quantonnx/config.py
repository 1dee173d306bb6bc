"""What the user asked for, validated strictly: an unknown key or a value that makes no sense never passes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from quantonnx.calibration.ranges import Method, RangeMethod, parse_method
from quantonnx.errors import ConfigError
from quantonnx.plan import near

_FLOAT32 = np.finfo(np.float32)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(*_explained(error, type(self))) from None

    # as pydantic's own RootModel does: settings in settings are validated as one, so that errors have the whole path
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(*_explained(error, type(self))) from None


class TensorQuantConfig(_Strict):
    """How one kind of tensor is quantized; what is None is left to the target.

    `n_bits` is 2 to 16, for activations 8 or 16; `symmetric` means zero point 0; `per_channel` is for weights;
    `calibration_method`, for activations, is one of `minmax`, `moving_average`, `percentile[:99.99]`, `entropy`,
    `mse` (= `histogram`).
    """

    n_bits: int | None = Field(default=None, ge=2, le=16)
    symmetric: bool | None = None
    signed: bool | None = None
    per_channel: bool | None = None
    calibration_method: Method | str | None = None

    @field_validator("calibration_method", mode="before")
    @classmethod
    def _method_is_known(cls, value: Any) -> Any:
        if value is not None:
            try:
                parse_method(value)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    def range_method(self, default: str) -> RangeMethod:
        """Returns the method asked for, or `default`."""
        return parse_method(self.calibration_method or default)


class OpsToSkip(_Strict):
    """Operators left alone, by type, node name, tensor name or `re:` pattern: `stub` for activations, `weight` for
    weights."""

    stub: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()


class FixedRange(_Strict):
    """A scale, a normal float32 number, and a zero point that calibration does not change."""

    scale: float = Field(ge=float(_FLOAT32.tiny), le=float(_FLOAT32.max), allow_inf_nan=False)
    zero_point: int = 0


class QuantConfig(_Strict):
    """Everything a user can say; the rest comes from the target.

    `exclude` leaves whole operators in float; names are exact (node, tensor or operator type) or `re:REGEX`.
    `fixed` gives tensors their scale and zero point. `bias_correction` takes the mean error of rounded
    weights out of the biases. `weight_storage` is `integer` (codes with a DequantizeLinear) or
    `float` (float weights with a Q/DQ pair). `keep_slow` keeps operators in integers where float is estimated faster.
    """

    activation: TensorQuantConfig = Field(default_factory=TensorQuantConfig)
    weight: TensorQuantConfig = Field(default_factory=TensorQuantConfig)
    skip: OpsToSkip = Field(default_factory=OpsToSkip)
    exclude: tuple[str, ...] = ()
    fixed: dict[str, FixedRange] = Field(default_factory=dict)
    bias_correction: bool = True
    keep_slow: bool = False
    weight_storage: str = Field(default="integer", pattern="^(integer|float)$")

    @field_validator("activation")
    @classmethod
    def _one_scale(cls, value: TensorQuantConfig) -> TensorQuantConfig:
        if value.per_channel:
            raise ConfigError("activation.per_channel is True", "only weights have a scale per channel; leave it out")
        return value

    @field_validator("weight")
    @classmethod
    def _range_of_the_values(cls, value: TensorQuantConfig) -> TensorQuantConfig:
        if value.calibration_method is not None:
            raise ConfigError(
                f"weight.calibration_method is {str(value.calibration_method)!r}",
                "weights take their range from their values; leave it out",
            )
        return value

    @classmethod
    def load(cls, path: str | Path) -> QuantConfig:
        """Reads a YAML or JSON file; ConfigError names the key that is wrong."""
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path} cannot be read: {' '.join(str(error).split())}", "expected a YAML file"
            ) from error
        if not isinstance(content or {}, dict):
            raise ConfigError(f"{path} holds {type(content).__name__}", "expected a mapping of settings")
        return cls(**(content or {}))


class NameRules:
    """Names a user wrote, matched against what the model has; one that matches nothing is an error."""

    def __init__(self, names: Iterable[str], where: str) -> None:
        self.where = where
        self.exact = tuple(name for name in names if not name.startswith("re:"))
        self.patterns = {name: _compiled(name[3:], where) for name in names if name.startswith("re:")}

    def check(self, known: Iterable[str]) -> None:
        """Raises ConfigError for a rule that matches none of `known`, with the nearest names."""
        known = dict.fromkeys(known)
        for name in self.exact:
            if name not in known:
                raise ConfigError(f"{self.where}: nothing in the model is called {name!r}", near(name, known))
        for name, pattern in self.patterns.items():
            if not any(pattern.search(candidate) for candidate in known):
                raise ConfigError(f"{self.where}: {name!r} matches nothing in the model", "check the expression")

    def first(self, names: Iterable[str]) -> str | None:
        """Returns the rule that matches one of `names`, or None."""
        for name in names:
            if name in self.exact:
                return name
            for rule, pattern in self.patterns.items():
                if pattern.search(name):
                    return rule
        return None


def _compiled(expression: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{where}: 're:{expression}' is no regular expression: {error}", "check it") from None


def _explained(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {path!r}", near(str(first["loc"][-1]), _keys(model, first["loc"][:-1]))
    found = first.get("input")
    shown = repr(found) if not isinstance(found, Mapping) else "a mapping"
    return f"{path} is {shown}", first["msg"].removeprefix("Value error, ").lower()


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)
