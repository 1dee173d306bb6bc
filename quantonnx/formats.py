"""How real numbers become integers: code range, storage type, scale and zero point.

Numpy only, with the arithmetic of ONNX QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.rounding import Rounding, round_in_place
from quantonnx.scales import ScaleType, of_kind

__all__ = ["Parameters", "Rounding", "ScaleType", "Storage", "TensorFormat", "dequantize", "quantize"]

Array = NDArray[Any]

SMALLEST_RANGE = 1e-8
"""A tensor of zeros still needs a scale: ranges narrower than this are widened to it."""

FLOAT8_MAX = 448
"""The largest finite number of E4M3FN."""

_TENSOR_PROTO_TYPES = {
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "float8_e4m3fn": 17,
    "uint4": 21,
    "int4": 22,
    "uint2": 25,
    "int2": 26,
}
_NATIVE_BITS = (2, 4, 8, 16)


class Storage(StrEnum):
    """The type that weight codes of less than 8 bits have in the file: int8, which keeps integer kernels, or the
    native int4, uint4, int2 or uint2."""

    NARROWED = "narrowed"
    NATIVE = "native"


@dataclass(frozen=True, eq=False)
class Parameters:
    """The numbers of one Q/DQ pair: float `scale`, and `zero_point` of the codes' type.

    0-d; or 1-d, per channel; or of the tensor's rank, per group: along the axis one number for each group.
    """

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
        if self.storage is Storage.NATIVE and self.n_bits not in _NATIVE_BITS:
            raise ConfigError(f"no native type has {self.n_bits} bits", "use 2, 4, 8 or 16, or storage narrowed")
        if self.float8:
            self._check_float8()
        self._check_groups()
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed is {self.seed!r}, expected an integer from 0 on")

    def _check_float8(self) -> None:
        if self.n_bits != 8 or not self.signed or not self.symmetric:
            raise ConfigError("float8 is set for other than 8 signed symmetric bits", "leave those settings out")
        if self.narrow_range:
            raise ConfigError("narrow_range is set for float8", "it is for signed integers")
        if self.rounding is not Rounding.HALF_EVEN:
            raise ConfigError(f"rounding {str(self.rounding)!r} is set for float8", "only integers have it")
        if self.group_size is not None:
            raise ConfigError("group_size is set for float8", "use one scale per tensor or per channel")

    def _check_groups(self) -> None:
        size = self.group_size
        if size is None:
            return
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"group_size is {size!r}, expected an integer from 1 on")
        if self.axis is None:
            raise ConfigError(f"group_size is {size}, and no axis is set", "set the axis of the groups")

    @property
    def qmin(self) -> int:
        """The lowest code; for float8 the lowest number that one stands for."""
        if self.float8:
            return -FLOAT8_MAX
        return self.narrow_range - (1 << (self.n_bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The highest code; for float8 the highest number that one stands for."""
        return FLOAT8_MAX if self.float8 else (1 << (self.n_bits - self.signed)) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the codes: the smallest numpy integer of at least 8 bits that holds them, or one of ml_dtypes for
        float8 and native storage.
        """
        sign = "" if self.signed else "u"
        kind: Any = f"{sign}int{8 if self.n_bits <= 8 else 16}"
        if self.float8:
            kind = ml_dtypes.float8_e4m3fn
        elif self.storage is Storage.NATIVE and self.n_bits < 8:
            kind = getattr(ml_dtypes, f"{sign}int{self.n_bits}")
        found: np.dtype[Any] = np.dtype(kind)
        return found

    @property
    def onnx_dtype(self) -> int:
        """`dtype` as a value of onnx.TensorProto.DataType."""
        return _TENSOR_PROTO_TYPES[self.dtype.name]

    @property
    def saturates_as_stored(self) -> bool:
        """True where QuantizeLinear, which saturates at the ends of `dtype`, gives these codes and no others.

        A narrow range counts as whole where its scale, max|·| / 127, leaves the lowest code of the type to no value.
        """
        whole = self.n_bits in (8, 16) or self.storage is Storage.NATIVE
        return self.float8 or (whole and not (self.narrow_range and self.scale_type is ScaleType.POWER_OF_TWO))

    def extremes(self, x: Array) -> tuple[Array, Array]:
        """Return the float32 minimum and maximum of `x` and 0.

        0-d; 1-d per channel of `axis`; or per group, of the shape of `x` but for ⌈size / group_size⌉ along `axis`, the
        last group being what is left.
        """
        others: int | tuple[int, ...] | None = None
        if self.axis is not None and self.group_size is not None:
            x, others = in_groups(x, self.axis, self.group_size)
        elif self.axis is not None:
            others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        low, high = (reduce(x, axis=others, initial=0) for reduce in (np.min, np.max))
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def parameters(self, low: ArrayLike, high: ArrayLike, float_type: str = "float32") -> Parameters:
        """Return scale and zero point for the values `low` to `high`: numbers, or arrays as `extremes` gives them.

        The scale is rounded to the kind that `scale_type` says and to `float_type`, a numpy float, within what leaves
        it positive and every code finite.

        Symmetric: scale = max|·| / ((qmax − qmin) / 2), so that full-range int8 divides by 127.5 and narrow
        int8 by 127, float8 by 448; the zero point is the middle code, 0 for signed ones. Unsigned values that are never
        negative use all codes from zero point 0. Asymmetric: the range is widened to contain 0, the zero
        point is rounded, with the scale that is stored.
        Raises CalibrationError when a bound is NaN or infinite, or `low` exceeds `high`.
        """
        low, high = _checked_range(low, high)
        if self.symmetric:
            scale, zero_point = self._symmetric(low, high)
        else:
            scale, zero_point = self._asymmetric(low, high)
        reach = np.maximum(zero_point - self.qmin, self.qmax - zero_point)
        return Parameters(of_kind(scale, self.scale_type, reach, float_type), zero_point.astype(self.dtype))

    def _symmetric(self, low: Array, high: Array) -> tuple[Array, Array]:
        largest = np.maximum(np.maximum(abs(low), abs(high)), SMALLEST_RANGE)
        one_sided = (low >= 0) & (not self.signed)
        steps = np.where(one_sided, self.qmax, (self.qmax - self.qmin) / 2)
        middle = 0 if self.signed else 2 ** (self.n_bits - 1)
        return np.asarray(largest / steps), np.where(one_sided, 0, middle)

    def _asymmetric(self, low: Array, high: Array) -> tuple[Array, Array]:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = np.maximum(high - low, SMALLEST_RANGE) / (self.qmax - self.qmin)
        scale = of_kind(scale, self.scale_type, np.ones(()), "float32")
        zero_point = np.rint(self.qmin - low / scale.astype(np.float64))
        return scale, np.asarray(np.clip(zero_point, self.qmin, self.qmax))


def quantize(x: Array, parameters: Parameters, fmt: TensorFormat, name: str = "") -> Array:
    """Return the codes of the real values `x`, of the same shape and of type `fmt.dtype`.

    Divides in float32, rounds and saturates: where the rounding is half to even, ONNX Runtime's QuantizeLinear, bit for
    bit. `name`, that of the tensor, keeps stochastic rounding of different tensors apart.
    """
    scale, zero_point = _aligned(parameters, fmt, x.shape)
    with np.errstate(over="ignore"):
        codes = np.asarray(np.divide(x, scale, dtype=np.float32))
    if not fmt.float8:
        round_in_place(codes, fmt.rounding, fmt.seed, name)
        codes += zero_point.astype(np.float32)
    np.clip(codes, fmt.qmin, fmt.qmax, out=codes)
    return codes.astype(fmt.dtype)


def dequantize(codes: Array, parameters: Parameters, fmt: TensorFormat) -> Array:
    """Return the values that `codes` stand for, in the scale's type, as ONNX DequantizeLinear does, bit for bit."""
    scale, zero_point = _aligned(parameters, fmt, codes.shape)
    steps = codes.astype(np.float32) - zero_point.astype(np.float32)  # exact up to 2^24
    return np.asarray((steps * scale).astype(scale.dtype, copy=False))


def in_groups(x: Array, axis: int, size: int) -> tuple[Array, int]:
    """Split an axis into groups and places in them, zeros in the rest of the last; return the axis of places too."""
    axis %= x.ndim
    missing = -x.shape[axis] % size
    if missing:
        x = np.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis + 1


def _aligned(parameters: Parameters, fmt: TensorFormat, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Shape scale and zero point so that they broadcast over a tensor of that shape."""
    scale, zero_point = parameters.scale, parameters.zero_point
    if fmt.axis is None or scale.ndim == 0:
        return scale, zero_point
    if fmt.group_size is not None:
        group = np.arange(shape[fmt.axis]) // fmt.group_size
        return scale.take(group, fmt.axis), zero_point.take(group, fmt.axis)
    along = [1] * len(shape)
    along[fmt.axis] = -1
    return scale.reshape(along), zero_point.reshape(along)


def _checked_range(low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    for wrong, reason in (
        (~(np.isfinite(low) & np.isfinite(high)), "has no scale, expected finite numbers"),
        (low > high, "is upside down, expected low ≤ high"),
    ):
        if wrong.any():
            first = np.argmax(wrong)
            raise CalibrationError(f"the range {low.flat[first]}…{high.flat[first]} {reason}")
    return low, high
