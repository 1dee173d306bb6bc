"""One form for what other tools' files say of quantized tensors: every format is read into it and written from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantonnx.decisions import Decision
from quantonnx.errors import ModelError, OutputError

Array = NDArray[Any]

_LARGEST_SCALE = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a file says of one tensor; None is what it does not say.

    `scale` (float64) and `zero_point` (int64) have one shape: 0-d, 1-d per channel along `axis`, or one value per
    block of `block_size` along it. The zero point is ONNX's: the code of 0.0, so 0 is usual for signed codes. `low`
    and `high` are the range of the values. `floating` is for E4M3FN (8 bits) and for tensors that stay in float.
    """

    name: str
    n_bits: int | None = None
    signed: bool | None = None
    symmetric: bool | None = None
    narrow_range: bool = False
    floating: bool = False
    scale: Array | None = None
    zero_point: Array | None = None
    axis: int | None = None
    block_size: int | None = None
    parameter: bool = False
    low: Array | None = None
    high: Array | None = None

    @property
    def per_tensor(self) -> bool:
        """Whether one scale, or one range, serves the whole tensor."""
        return not any(values is not None and values.ndim for values in (self.scale, self.low))

    @property
    def integer(self) -> bool:
        """Whether the file says which integers the codes are, and with which numbers."""
        return not self.floating and self.n_bits is not None and self.signed is not None and self.scale is not None

    @property
    def only_zeros(self) -> bool:
        """Whether the file has a range of nothing but 0 and no scale: there is none to find."""
        ends = [end for end in (self.low, self.high) if end is not None]
        return self.scale is None and bool(ends) and not any(end.any() for end in ends)

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest code of integers."""
        assert self.n_bits is not None
        if not self.signed:
            return 0, (1 << self.n_bits) - 1
        half = 1 << (self.n_bits - 1)
        return self.narrow_range - half, half - 1

    def range(self) -> tuple[Array, Array] | None:
        """Returns the range of values: the one that the file says, else what the codes reach; None where neither is.

        A symmetric range is as wide below zero as above, so that a symmetric format of the same bits gives the same
        scale again.
        """
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if not self.integer or self.scale is None or self.zero_point is None:
            return None
        lowest, highest = self.codes
        high = (highest - self.zero_point) * self.scale
        return (-high if self.symmetric and self._centred else (lowest - self.zero_point) * self.scale), high

    @property
    def _centred(self) -> bool:
        assert self.n_bits is not None
        return bool(self.signed) or bool(np.all(self.zero_point == 1 << (self.n_bits - 1)))

    def problem(self) -> str:
        """Returns what is wrong with the numbers, or nothing."""
        if self.low is not None and self.high is not None:
            if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
                return "its range is not finite"
            if (self.low > self.high).any():
                return f"its range is upside down: {shown(self.low)} to {shown(self.high)}"
        if self.scale is None or self.zero_point is None:
            return ""
        if not ((self.scale > 0) & (self.scale <= _LARGEST_SCALE)).all():
            return f"its scale is {shown(self.scale)}, expected positive numbers of float32"
        if self.integer:
            lowest, highest = self.codes
            if (self.zero_point < lowest).any() or (self.zero_point > highest).any():
                return f"its zero point is {shown(self.zero_point)}, its codes are {lowest} to {highest}"
        return ""


@dataclass(frozen=True)
class Contents:
    """What a file says, and what of it has no place here, with the reason."""

    encodings: tuple[Encoding, ...]
    left: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Written:
    """The text of a file, and what has no place in it, with the reason."""

    text: str
    left: tuple[Decision, ...] = ()


def numbers(scale: ArrayLike, zero_point: ArrayLike = 0) -> dict[str, Any]:
    """Returns `scale` and `zero_point` for an Encoding, in one shape."""
    values = np.asarray(scale, np.float64)
    return {"scale": values, "zero_point": np.broadcast_to(np.asarray(zero_point, np.int64), values.shape).copy()}


def is_symmetric(n_bits: int, *, signed: bool, zero_point: Array) -> bool:
    """Whether zero is the middle code."""
    return bool(np.all(zero_point == (0 if signed else 1 << (n_bits - 1))))


def checked(encodings: Iterable[Encoding], file: str) -> tuple[Encoding, ...]:
    """Returns the encodings of a file. Raises ModelError for names given twice and numbers that make no sense."""
    found: dict[str, Encoding] = {}
    for encoding in encodings:
        if encoding.name in found:
            raise ModelError(f"{file}: {encoding.name!r} is there twice", "expected each tensor once")
        if problem := encoding.problem():
            raise ModelError(f"{file}: {encoding.name!r}: {problem}")
        found[encoding.name] = encoding
    if not found:
        raise ModelError(f"{file} says nothing of any tensor", "check that it is the right file")
    return tuple(found.values())


def with_numbers(encodings: Iterable[Encoding], what: str) -> Iterator[Encoding]:
    """Yields encodings that have a type and, as integers, a scale. Raises OutputError for the first that has not."""
    for encoding in encodings:
        if encoding.n_bits is None or not (encoding.floating or encoding.integer):
            missing = "no scale, only a range" if encoding.scale is None else "no type of its codes"
            raise OutputError(
                f"{encoding.name!r} has {missing}, {what} need both",
                "convert with --to config, quantize with that, and convert the quantized model",
            )
        yield encoding


def shown(values: Array) -> str:
    """Returns an array in a few characters."""
    flat = [f"{value:.6g}" for value in values.reshape(-1)[:3]]
    return flat[0] if values.size == 1 else f"[{', '.join(flat)}{', …' if values.size > 3 else ''}]"
