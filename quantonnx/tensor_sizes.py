"""Tensors that claim more, or less, than they hold: absurd shapes are refused before anything is allocated for them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from onnx import SparseTensorProto, helper

from quantonnx.errors import ModelError
from quantonnx.weights import InlineValues, StoredValues, byte_size

_LARGEST_DENSE, _LARGEST_EXPANSION = 1 << 28, 100
"""A sparse tensor may take so many bytes as a dense one, or so many times those of its values."""


def complete(values: InlineValues) -> InlineValues:
    """Returns the values; ModelError for a tensor that holds more or less than its shape says."""
    tensor = values.proto
    if tensor.HasField("raw_data"):
        found, expected, what = len(tensor.raw_data), values.nbytes, "bytes"
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        found, expected, what = len(getattr(tensor, field)), _numbers(values), f"numbers in {field}"
    if found != expected:
        raise ModelError(
            f"initializer {tensor.name!r} holds {found} {what}, expected {expected} for {list(tensor.dims)}",
            "download or export it again",
        )
    return values


def refuse_negative(name: str, dims: Iterable[int]) -> None:
    """Raises ModelError for a shape with a negative dimension."""
    if any(size < 0 for size in dims):
        raise ModelError(f"initializer {name!r} has the shape {list(dims)}", "export the model again")


def refuse_expansion(sparse: SparseTensorProto, values: StoredValues) -> None:
    """Raises ModelError for a sparse tensor that would take far more memory than its file."""
    refuse_negative(sparse.values.name, sparse.dims)
    dense = byte_size(sparse.dims, values.dtype)
    if dense > max(_LARGEST_DENSE, _LARGEST_EXPANSION * values.nbytes):
        name, size = sparse.values.name, f"{dense / 1e9:,.1f} GB"
        raise ModelError(f"sparse initializer {name!r} is {size} as a dense tensor", "export it dense")


def _numbers(values: InlineValues) -> int:
    """How many entries of a field that is not bytes a tensor takes: complex numbers two each, small ones share one."""
    count, bits = math.prod(values.shape), values.nbytes * 8
    if values.dtype.kind == "c":
        return 2 * count
    return values.nbytes if values.dtype != object and bits < 8 * count else count
