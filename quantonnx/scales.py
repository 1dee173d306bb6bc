"""Which numbers a scale may be.

Hardware that shifts in place of multiplying needs powers of two, and some kernels read scales of float16.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ScaleType(StrEnum):
    """Which numbers a scale may be: any float, powers of two (shifts in hardware), or those of float16."""

    FLOAT = "float"
    POWER_OF_TWO = "power_of_two"
    FLOAT16 = "float16"


def of_kind(scale: Array, kind: ScaleType, reach: Array, float_type: str) -> Array:
    """Returns the nearest positive numbers of `float_type` and of that kind.

    They are so small that `reach`, the code farthest from zero, is finite in `float_type`. The nearest power of two is
    that of the nearest exponent, as the position of a fixed-point number is chosen.
    """
    limits = np.finfo(float_type)
    if kind is ScaleType.POWER_OF_TWO:
        least = np.log2(float(limits.smallest_subnormal))
        largest = np.floor(np.log2(float(limits.max) / reach))
        return np.asarray(np.exp2(np.clip(np.rint(np.log2(scale)), least, largest)).astype(float_type))
    if kind is ScaleType.FLOAT16:
        half = np.finfo(np.float16)
        scale = np.clip(scale, float(half.smallest_subnormal), float(half.max)).astype(np.float16).astype(np.float64)
    return _rounded(scale, reach, float_type)


def _rounded(scale: Array, reach: Array, float_type: str) -> Array:
    info = np.finfo(float_type)
    largest = np.asarray(float(info.max) / reach)
    stored = np.clip(scale, float(info.smallest_subnormal), largest).astype(float_type)
    return np.where(stored > largest, np.nextafter(stored, np.zeros_like(stored)), stored)
