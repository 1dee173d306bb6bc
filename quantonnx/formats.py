"""How real numbers become integers: code range, storage type, scale and zero point.

Numpy only, with the arithmetic of ONNX QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantonnx.errors import CalibrationError, ConfigError

Array = NDArray[Any]

SMALLEST_RANGE = 1e-8
"""A tensor of zeros still needs a scale: ranges narrower than this are widened to it."""

_TENSOR_PROTO_TYPES = {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5}


class ScaleType(StrEnum):
    """Which numbers a scale may be: any float, powers of two (shifts in hardware), or those of float16."""

    FLOAT = "float"
    POWER_OF_TWO = "power_of_two"
    FLOAT16 = "float16"


class Rounding(StrEnum):
    """How a weight becomes a code; activations are rounded half to even, as QuantizeLinear does."""

    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"
    FLOOR = "floor"
    STOCHASTIC = "stochastic"


class Storage(StrEnum):
    """The type that weight codes of less than 8 bits have in the file: int8, which keeps integer kernels, or the
    native int4, uint4, int2 or uint2."""

    NARROWED = "narrowed"
    NATIVE = "native"


@dataclass(frozen=True, eq=False)
class Parameters:
    """The numbers of one Q/DQ pair: float `scale`, integer `zero_point`; 0-d, or 1-d per channel."""

    scale: Array
    zero_point: Array


@dataclass(frozen=True)
class TensorFormat:
    """How real numbers become integers of `n_bits` (2 to 16).

    `symmetric` pins zero to a fixed code; `narrow_range` drops the lowest signed code (−127…127);
    `axis` gives each channel along it a scale of its own, None one scale to the whole tensor; with `group_size` it is
    the axis along which that many values share a scale, each position of the other axes having its own. `float8` is
    E4M3FN in place of integers. `seed` is for stochastic rounding.
    Raises ConfigError where the combination makes no sense.
    """

    n_bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow_range: bool = False
    axis: int | None = None
    group_size: int | None = None
    float8: bool = False
    scale_type: ScaleType = ScaleType.FLOAT
    rounding: Rounding = Rounding.HALF_EVEN
    seed: int = 0
    storage: Storage = Storage.NARROWED

    def __post_init__(self) -> None:
        if isinstance(self.n_bits, bool) or not isinstance(self.n_bits, int) or not 2 <= self.n_bits <= 16:
            raise ConfigError(f"n_bits is {self.n_bits!r}, expected an integer from 2 to 16")
        if self.narrow_range and not self.signed:
            raise ConfigError("narrow_range is set for unsigned codes", "it needs signed=True")

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return self.narrow_range - (1 << (self.n_bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.n_bits - self.signed)) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest numpy integer type of at least 8 bits that holds the codes."""
        return np.dtype(f"{'' if self.signed else 'u'}int{8 if self.n_bits <= 8 else 16}")

    @property
    def onnx_dtype(self) -> int:
        """`dtype` as a value of onnx.TensorProto.DataType."""
        return _TENSOR_PROTO_TYPES[self.dtype.name]

    def extremes(self, x: Array) -> tuple[Array, Array]:
        """Return the float32 minimum and maximum of `x` and 0, per channel along `axis` if there is one."""
        others = None if self.axis is None else tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        low, high = (reduce(x, axis=others, initial=0) for reduce in (np.min, np.max))
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def parameters(self, low: ArrayLike, high: ArrayLike, float_type: str = "float32") -> Parameters:
        """Return scale and zero point for the values `low` to `high`: numbers, or 1-d per channel.

        The scale is rounded to `float_type`, a numpy float, within what leaves it positive and every code finite.

        Symmetric: scale = max|·| / ((qmax − qmin) / 2), so that full-range int8 divides by 127.5 and narrow
        int8 by 127; the zero point is the middle code, 0 for signed ones. Unsigned values that are never
        negative use all codes from zero point 0. Asymmetric: the range is widened to contain 0, the zero
        point rounded.
        Raises CalibrationError when a bound is NaN or infinite, or `low` exceeds `high`.
        """
        low, high = _checked_range(low, high)
        if self.symmetric:
            scale, zero_point = self._symmetric(low, high)
        else:
            scale, zero_point = self._asymmetric(low, high)
        reach = np.maximum(zero_point - self.qmin, self.qmax - zero_point)
        return Parameters(_rounded(scale, reach, float_type), zero_point.astype(self.dtype))

    def _symmetric(self, low: Array, high: Array) -> tuple[Array, Array]:
        largest = np.maximum(np.maximum(abs(low), abs(high)), SMALLEST_RANGE)
        one_sided = (low >= 0) & (not self.signed)
        steps = np.where(one_sided, self.qmax, (self.qmax - self.qmin) / 2)
        middle = 0 if self.signed else 2 ** (self.n_bits - 1)
        return np.asarray(largest / steps), np.where(one_sided, 0, middle)

    def _asymmetric(self, low: Array, high: Array) -> tuple[Array, Array]:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = np.asarray(np.maximum(high - low, SMALLEST_RANGE) / (self.qmax - self.qmin), np.float32)
        zero_point = np.rint(self.qmin - low / scale.astype(np.float64))
        return scale, np.asarray(np.clip(zero_point, self.qmin, self.qmax))


def quantize(x: Array, parameters: Parameters, fmt: TensorFormat) -> Array:
    """Return the codes of the real values `x`, of the same shape and of type `fmt.dtype`.

    Divides in float32, rounds half to even and saturates: ONNX Runtime's QuantizeLinear, bit for bit.
    """
    scale, zero_point = _aligned(parameters, fmt, x.ndim)
    with np.errstate(over="ignore"):
        codes = np.asarray(np.divide(x, scale, dtype=np.float32))
    np.rint(codes, out=codes)
    codes += zero_point.astype(np.float32)
    np.clip(codes, fmt.qmin, fmt.qmax, out=codes)
    return codes.astype(fmt.dtype)


def dequantize(codes: Array, parameters: Parameters, fmt: TensorFormat) -> Array:
    """Return the values that `codes` stand for, in the scale's type, as ONNX DequantizeLinear does, bit for bit."""
    scale, zero_point = _aligned(parameters, fmt, codes.ndim)
    steps = (codes.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32)
    return np.asarray((steps * scale).astype(scale.dtype, copy=False))


def _rounded(scale: Array, reach: Array, float_type: str) -> Array:
    """Return the scale in that type, positive, and so small that the code farthest from zero is finite."""
    info = np.finfo(float_type)
    largest = np.asarray(float(info.max) / reach)
    stored = np.clip(scale, float(info.smallest_subnormal), largest).astype(float_type)
    return np.where(stored > largest, np.nextafter(stored, np.zeros_like(stored)), stored)


def _aligned(parameters: Parameters, fmt: TensorFormat, rank: int) -> tuple[Array, Array]:
    """Reshape scale and zero point so that they broadcast along the channel axis of a tensor of that rank."""
    if fmt.axis is None or parameters.scale.ndim == 0:
        return parameters.scale, parameters.zero_point
    shape = [1] * rank
    shape[fmt.axis] = -1
    return parameters.scale.reshape(shape), parameters.zero_point.reshape(shape)


def _checked_range(low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise CalibrationError(f"the range {low}…{high} has no scale, expected finite numbers")
    if (low > high).any():
        raise CalibrationError(f"the range {low}…{high} is upside down, expected low ≤ high")
    return low, high
