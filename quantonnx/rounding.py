"""How a number between two codes becomes one of them.

QuantizeLinear rounds half to even; weights, whose codes are computed here and not at run time, may be rounded in other
ways.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Rounding(StrEnum):
    """How a weight becomes a code; activations are rounded half to even, as QuantizeLinear does."""

    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"
    FLOOR = "floor"
    STOCHASTIC = "stochastic"


def round_in_place(values: Array, rounding: Rounding, seed: int = 0, name: str = "") -> None:
    """Makes whole numbers of a float array.

    Stochastic rounding goes up with the probability of the fraction. Its random numbers follow from `seed` and `name`
    alone (Philox, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), not from the machine.
    """
    if rounding is Rounding.HALF_EVEN:
        np.rint(values, out=values)
    elif rounding is Rounding.HALF_AWAY:
        size = np.abs(values)
        whole = np.floor(size)
        np.copysign(whole + (size - whole >= 0.5), values, out=values)  # a half added first would be rounded itself
    else:
        whole = np.floor(values)
        if rounding is Rounding.STOCHASTIC:
            whole += random_numbers(values.shape, seed, name) < values - whole
        values[...] = whole


def random_numbers(shape: tuple[int, ...], seed: int, name: str) -> Array:
    """Returns the float32 numbers, from 0 to below 1, that stochastic rounding of that tensor takes."""
    sequence = np.random.SeedSequence([seed, crc32(name.encode())])
    return np.random.Generator(np.random.Philox(sequence)).random(shape, np.float32)
