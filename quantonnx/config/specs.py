"""What can be said about one tensor: its integers, its scale, and how its range is found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from quantonnx.calibration.ranges import Method, RangeMethod, parse_method
from quantonnx.config.strict import Strict
from quantonnx.errors import ConfigError
from quantonnx.formats import Rounding, ScaleType, Storage

_FLOAT32 = np.finfo(np.float32)
_FLOAT8 = frozenset({"fp8", "float8", "float8e4m3fn", "float8_e4m3fn", "qfloat8e4m3fn"})
_INTEGER = re.compile(r"q?(u?)int(\d+)")

INT32 = "int32"
"""The type of a bias whose scale is the product of its operator's two others."""


def _with_width(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("expected [low, high], low below high")
    return value


Scale = Annotated[float, Field(ge=float(_FLOAT32.tiny), le=float(_FLOAT32.max), allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
KnownRange = Annotated[tuple[Finite, Finite], AfterValidator(_with_width)]
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


class TensorQuantConfig(Strict):
    """How a tensor is quantized; what is left unsaid falls through to the level above, and last to the target.

    `n_bits` is 2 to 16; `dtype` says bits and sign in one word (`int8`, `uint4`, `int16`, …, or `float8e4m3fn`;
    `int32` for a bias). `symmetric` pins zero to one code, 0 for signed integers; said without a sign, symmetric is
    signed and asymmetric is unsigned. `narrow_range` drops the lowest code of signed integers.
    `per_channel` gives each output channel of a weight its own scale, along `axis` where the pattern's is not meant;
    `group_size` gives one to that many values along the axis that an operator sums over, or along `axis`.
    `scale_type` restricts scales; `rounding` (with `seed`) is for weights; `storage` chooses between narrowed codes
    and native int4 or int2. `dynamic` leaves range and scale of an activation to run time.
    `calibration_method` is one of `minmax`, `moving_average`, `percentile[:99.99]`, `entropy`, `mse` (= `histogram`),
    `auto` (that of them with which the whole model errs least), or a mapping of `method` and its parameters; weights
    take `minmax` or `mse`. In place of it, numbers can be fixed: `scale` with `zero_point` (lists: one for each channel
    of a weight), or `range`; `share_with` takes those of another tensor. `min_range` is the least width of a range.
    """

    n_bits: int | None = Field(default=None, ge=2, le=16)
    dtype: Annotated[str, Lower] | None = None
    signed: bool | None = None
    symmetric: bool | None = None
    narrow_range: bool | None = None
    per_channel: bool | None = None
    axis: int | None = None
    group_size: int | None = Field(default=None, ge=2)
    scale_type: ScaleType | None = None
    rounding: Rounding | None = None
    seed: int | None = Field(default=None, ge=0)
    storage: Storage | None = None
    dynamic: bool | None = None
    calibration_method: Method | str | dict[str, Any] | None = None
    scale: Scale | tuple[Scale, ...] | None = None
    zero_point: int | tuple[int, ...] | None = None
    range: KnownRange | None = None
    min_range: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    share_with: str | None = None

    @field_validator("calibration_method", mode="before")
    @classmethod
    def _method_is_known(cls, value: Any) -> Any:
        if value is not None:
            try:
                parse_method(value)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("dtype")
    @classmethod
    def _dtype_is_known(cls, value: str | None) -> str | None:
        found = _INTEGER.fullmatch(value or INT32)
        if value in _FLOAT8 or (found and (2 <= int(found[2]) <= 16 or value in (None, INT32))):
            return value
        raise ValueError("expected int2 to int16, uint2 to uint16, or float8e4m3fn (int32 for a bias)")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> TensorQuantConfig:
        said = {name for name in type(self).model_fields if getattr(self, name) is not None}
        said -= set() if self.dynamic else {"dynamic"}
        for one, other in _CONTRADICTIONS:
            if {one, other} <= said:
                raise ValueError(f"{one} and {other} are both said: give one of them")
        if "group_size" in said and self.per_channel:
            raise ValueError("group_size and per_channel are both said: a group is finer than a channel")
        for one, other in (("zero_point", "scale"), ("seed", "rounding")):
            if one in said and other not in said:
                raise ValueError(f"{one} is said without {other}")
        if self.rounding is not None and self.seed is not None and self.rounding is not Rounding.STOCHASTIC:
            raise ValueError(f"seed is said with rounding {self.rounding.value!r}: only stochastic rounding has one")
        return self

    @property
    def is_int32(self) -> bool:
        """True where the type asked for is that of a derived bias."""
        return self.dtype == INT32

    def said(self) -> dict[str, Any]:
        """Returns what is said, `dtype` spelled out as `n_bits`, `signed` and `float8`, and what follows from it."""
        names = (name for name in type(self).model_fields if getattr(self, name) is not None)
        found = {name: getattr(self, name) for name in names if name not in ("dtype", "optional")}
        found |= {"n_bits": None, "int32": True} if self.is_int32 else _of_dtype(self.dtype) if self.dtype else {}
        if self.n_bits is not None:
            found.setdefault("float8", False)
        if self.symmetric is not None:
            found.setdefault("signed", self.symmetric)
        return found

    def range_method(self, default: str) -> RangeMethod:
        """Returns the method asked for, or `default`."""
        return parse_method(self.calibration_method or default)


_NUMBERS = ("scale", "range", "share_with")
_CONTRADICTIONS = (
    ("dtype", "n_bits"),
    ("dtype", "signed"),
    *((one, other) for index, one in enumerate(_NUMBERS) for other in _NUMBERS[index + 1 :]),
    *((number, "dynamic") for number in _NUMBERS),
)


def _of_dtype(name: str) -> Mapping[str, Any]:
    found = _INTEGER.fullmatch(name)
    if found is None:
        return {"n_bits": 8, "signed": True, "symmetric": True, "narrow_range": False, "float8": True}
    return {"n_bits": int(found[2]), "signed": not found[1], "float8": False}
