"""Element types of ONNX and of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from quantonnx.torch.node import Array, Unsupported
from quantonnx.weights import to_numpy_dtype

_TYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "bool": torch.bool,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
_NARROW = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Returns the torch type of a numpy or ml_dtypes one. Raises Unsupported."""
    if dtype.name not in _TYPES:
        raise Unsupported(f"type {dtype.name}")
    return _TYPES[dtype.name]


def torch_dtype_of(onnx_dtype: int) -> torch.dtype:
    """Returns the torch type of a `TensorProto.DataType`. Raises Unsupported."""
    dtype = to_numpy_dtype(onnx_dtype)
    if dtype is None:
        raise Unsupported("no type")
    return torch_dtype(dtype)


def to_torch(values: Array) -> torch.Tensor:
    """Returns a tensor of its own with the values of an array; codes under 8 bits become int8 or uint8, floats of 4 and
    8 bits float32."""
    if values.dtype.name in _NARROW:
        values = values.astype(_NARROW[values.dtype.name])
    if values.dtype.name.startswith(("float4", "float8")):
        values = values.astype(np.float32)
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    torch_dtype(values.dtype)
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))


def to_numpy(tensor: torch.Tensor) -> Array:
    """Returns the values of a tensor, wherever it is."""
    return tensor.detach().cpu().contiguous().numpy()
