"""What a model's inputs expect, and whether an array fits: refusals name the input, the found and the expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.errors import DataError
from quantonnx.model import Model

Array = NDArray[Any]
Feed = dict[str, Array]
ForwardLoop = Callable[[Callable[[Mapping[str, Any]], list[Any]]], None]
"""Calls what it is given with one feed after the other; each call returns the values of the model's outputs."""

Progress = Callable[[int, int | None], None]
"""Is told how much is done and, where that is known, of how much."""


@dataclass(frozen=True)
class InputSpec:
    """An input of a model; a dynamic dimension of `shape` is a name or None, an open rank makes `shape` None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    @property
    def batch(self) -> int | None:
        """The fixed first dimension, if there is one."""
        first = self.shape[0] if self.shape else None
        return first if isinstance(first, int) and first > 0 else None

    @property
    def text(self) -> str:
        """Dtype and shape, as a person reads them."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"

    def fits(self, shape: Sequence[int], *, batch: bool = False) -> bool:
        """Return whether the shape is allowed; with `batch` the first dimension may be anything."""
        if self.shape is None:
            return True
        pairs = list(zip(shape, self.shape, strict=False))[1 if batch else 0 :]
        return len(shape) == len(self.shape) and all(
            not isinstance(wanted, int) or wanted < 0 or found == wanted for found, wanted in pairs
        )

    def cast(self, array: Array, where: str) -> Array:
        """Return the array in the input's dtype where no more than digits are lost; DataError on another dtype, on NaN
        or infinity, and on numbers too large for float16."""
        if array.dtype != self.dtype:
            if not _harmless(array.dtype, self.dtype):
                raise DataError(
                    f"input {self.name!r} of {where} is {array.dtype}, expected {self.dtype}", _advice(self.dtype)
                )
            array = self._rounded(array, where)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"input {self.name!r} of {where} holds NaN or infinity, expected finite numbers")
        return array

    def _rounded(self, array: Array, where: str) -> Array:
        with np.errstate(over="ignore"):
            cast = array.astype(self.dtype)
        if self.dtype == np.float16 and np.isinf(cast).any() and np.isfinite(array).all():
            raise DataError(
                f"input {self.name!r} of {where} holds {float(np.abs(array).max()):g}, which float16 cannot hold",
                "prepare it as the model expects",
            )
        return cast


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """Return the inputs of a model that must be fed, in their order."""
    return tuple(_spec(value) for value in model.graph.inputs if isinstance(value, gs.Variable))


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """Return the batch of more than one sample that a model insists on, if it does."""
    return next((spec.batch for spec in inputs if spec.batch not in (None, 1)), None)


def whole_batches(count: int, inputs: Sequence[InputSpec]) -> int:
    """Return `count`, rounded up to what fixed batches hold; first axes that differ are no batch."""
    first = {spec.batch or 1 for spec in inputs}
    rows = first.pop() if len(first) == 1 else 1
    return -(-count // rows) * rows


def length_of(samples: Any) -> int | None:
    """Return how many feeds there are, where that is known without reading them."""
    try:
        return len(samples)
    except TypeError:
        return None


def joined(rows: Sequence[Feed]) -> Feed:
    """Return several feeds as one, along the first axis."""
    if len(rows) == 1:
        return rows[0]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def named(values: Any, inputs: Sequence[InputSpec], where: str) -> Feed:
    """Return arrays by input name, from a mapping, one array, or a sequence of arrays in the order of the inputs."""
    if isinstance(values, Mapping):
        feed = {str(name): np.asarray(value) for name, value in values.items()}
        return _renamed(feed, inputs, where)
    if isinstance(values, (list, tuple)) and len(values) == len(inputs):
        return {spec.name: np.asarray(value) for spec, value in zip(inputs, values, strict=True)}
    if len(inputs) != 1 or isinstance(values, (list, tuple, str, bytes)):
        raise DataError(
            f"{where} is a {type(values).__name__}, expected arrays for the inputs {_names(inputs)}",
            "give a dictionary of arrays by input name",
        )
    return {inputs[0].name: np.asarray(values)}


def _renamed(feed: Feed, inputs: Sequence[InputSpec], where: str) -> Feed:
    """Check the names; one array for a model with one input may be called anything."""
    wanted = [spec.name for spec in inputs]
    if len(wanted) == len(feed) == 1:
        return {wanted[0]: next(iter(feed.values()))}
    missing = [name for name in wanted if name not in feed]
    unknown = [name for name in feed if name not in wanted]
    if missing:
        raise DataError(f"{where} has no array for input {missing[0]!r}, found {sorted(feed)}, expected {wanted}")
    if unknown:
        raise DataError(f"{where} has an array {unknown[0]!r} that is no input of the model, expected {wanted}")
    return {name: feed[name] for name in wanted}


def _names(inputs: Sequence[InputSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in inputs)


def _spec(value: gs.Variable) -> InputSpec:
    dtype = value.dtype
    if isinstance(dtype, int):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    shape = None if value.shape is None else tuple(value.shape)
    return InputSpec(value.name, np.dtype(np.float32 if dtype is None else dtype), shape)


def _harmless(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if found in (np.float64, np.float32) and wanted in (np.float32, np.float16):
        return True
    same_kind = found.kind == wanted.kind or (found.kind in "iu" and wanted.kind in "iu")
    return same_kind and np.can_cast(found, wanted, "safe")


def _advice(wanted: np.dtype[Any]) -> str:
    if wanted.kind == "f":
        return f"prepare it as the model expects, then array.astype({wanted.name!r})"
    return f"convert it with array.astype({wanted.name!r})"
