"""The values of constants: where they are, and how they become arrays or bytes without being held twice.

A constant of the graph carries a numpy array or one of the lazy kinds below. All of them look like the LazyValues of
onnx-graphsurgeon (`shape`, `dtype`, `nbytes`, `load`), which finds external data in the working directory and cannot
decode values under 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from quantonnx.errors import ModelError, QuantonnxError

Array = np.ndarray[Any, Any]
Chunk = bytes | memoryview

_CHUNK_BYTES = 1 << 22
_BITS = {
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
    "float4_e2m1fn": 4,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
}


@cache
def to_numpy_dtype(onnx_dtype: int) -> np.dtype[Any] | None:
    """Returns the numpy (or ml_dtypes) dtype of a `TensorProto.DataType`; None for UNDEFINED; object for strings."""
    if not onnx_dtype:
        return None
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(onnx_dtype))
    except KeyError:
        raise ModelError(f"tensor type {onnx_dtype} is unknown to onnx {onnx.__version__}", "upgrade onnx") from None


@cache
def to_onnx_dtype(dtype: Any) -> int:
    """Returns the `TensorProto.DataType` of a numpy or ml_dtypes dtype; an ONNX one is returned as it is."""
    if isinstance(dtype, int):
        return dtype
    dtype = np.dtype(dtype)
    return int(helper.np_dtype_to_tensor_dtype(dtype.newbyteorder("=") if _is_numpys(dtype) else dtype))


def byte_size(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Returns how many bytes ONNX stores for a tensor; values under 8 bits are packed."""
    bits = _BITS.get(dtype.name, dtype.itemsize * 8)
    return (math.prod(shape) * bits + 7) // 8


class StoredValues(LazyValues):  # type: ignore[misc]  # onnx-graphsurgeon ships no types
    """Values that are not an array yet: `shape`, numpy `dtype` and `nbytes` are known, `load` reads."""

    def __init__(self, shape: Sequence[int], onnx_dtype: int) -> None:
        dtype = to_numpy_dtype(onnx_dtype)
        if dtype is None:
            raise ModelError("a tensor has no element type", "export the model again")
        self.shape: tuple[int, ...] = tuple(map(int, shape))
        self.dtype: np.dtype[Any] = dtype
        self.nbytes = byte_size(self.shape, dtype)

    def load(self) -> Array:
        """Returns the values, which nothing else holds."""
        raise NotImplementedError

    def chunks(self) -> Iterator[Chunk]:
        """Yields the values as ONNX stores them, `nbytes` in all."""
        return iter((to_bytes(self.load()),))

    @property
    def tensor(self) -> TensorProto:
        """The whole tensor; onnx-graphsurgeon's own exporter asks for it."""
        return numpy_helper.from_array(self.load())


class InlineValues(StoredValues):
    """Values inside a TensorProto of the file that was read."""

    def __init__(self, tensor: TensorProto) -> None:
        super().__init__(tensor.dims, tensor.data_type)
        self.proto = tensor

    def load(self) -> Array:
        """Returns the values, unpacked."""
        return numpy_helper.to_array(self.proto)

    def chunks(self) -> Iterator[Chunk]:
        """Yields the bytes of the file, or the values packed when they were stored as numbers."""
        return iter((self.proto.raw_data,)) if self.proto.HasField("raw_data") else super().chunks()

    @property
    def tensor(self) -> TensorProto:
        """The tensor as it was read."""
        return self.proto


class ExternalValues(StoredValues):
    """Values in a range of bytes of another file; `proto` is the tensor without them."""

    def __init__(self, proto: TensorProto, path: Path, offset: int) -> None:
        super().__init__(proto.dims, proto.data_type)
        self.proto, self.path, self.offset = proto, path, offset

    def load(self) -> Array:
        """Reads the range, whatever the working directory is."""
        return _decode(self._read_range(self.offset, self.nbytes), self.shape, self.dtype)

    def chunks(self) -> Iterator[Chunk]:
        """Yields the range piece by piece, so that no tensor is in memory as a whole."""
        left = self.nbytes
        while left:
            piece = self._read_range(self.offset + self.nbytes - left, min(left, _CHUNK_BYTES))
            left -= len(piece)
            yield piece.data

    def _read_range(self, offset: int, size: int) -> Array:
        name = self.path.name
        try:
            raw = np.fromfile(self.path, np.uint8, size, offset=offset)
        except OSError as error:
            raise ModelError(f"external data file {name!r} cannot be read: {error.strerror}", "restore it") from error
        if raw.nbytes != size:
            raise ModelError(f"external data file {name!r} has become too short for {self.proto.name!r}", "restore it")
        return raw


class SparseValues(StoredValues):
    """A sparse initializer, seen as the dense tensor that it stands for."""

    def __init__(self, dims: Sequence[int], values: StoredValues, indices: StoredValues) -> None:
        super().__init__(dims, to_onnx_dtype(values.dtype))
        self._values, self._indices = values, indices

    def load(self) -> Array:
        """Returns the dense tensor; indices are linear (one axis) or one row per value (two axes)."""
        dense = np.zeros(self.shape, self.dtype)
        indices = self._indices.load()
        if (indices < 0).any():
            raise ValueError("a negative index")
        where = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, self.shape)
        dense[where] = self._values.load()
        return dense


class DeferredValues(StoredValues):
    """Values that `compute` gives each time that they are read, so that they are not held."""

    def __init__(self, shape: Sequence[int], onnx_dtype: int, compute: Callable[[], Array]) -> None:
        super().__init__(shape, onnx_dtype)
        self._compute = compute

    def load(self) -> Array:
        """Computes; a result of another shape or dtype than announced is a ModelError."""
        values = np.asarray(self._compute())
        if values.shape != self.shape or values.dtype != self.dtype:
            found, expected = f"{values.dtype}{list(values.shape)}", f"{self.dtype}{list(self.shape)}"
            raise ModelError(f"a deferred constant was computed as {found}, announced as {expected}")
        return values


def constant(name: str, array: Array) -> gs.Constant:
    """Returns a constant that holds `array` (any dtype of numpy or ml_dtypes that ONNX has)."""
    return gs.Constant(name, np.asarray(array))


def deferred(name: str, shape: Sequence[int], onnx_dtype: int, compute: Callable[[], Array]) -> gs.Constant:
    """Returns a constant whose values `compute` gives when they are read or written, and that nothing holds."""
    return gs.Constant(name, DeferredValues(shape, onnx_dtype, compute))


def load_array(constant: gs.Constant) -> Array:
    """Returns the values of a constant, read-only, without keeping them on the graph."""
    values = constant._values
    if isinstance(values, LazyValues):
        values = _load(constant.name, values)
    return _read_only(_cast(values, constant._export_dtype))


@dataclass(frozen=True)
class Payload:
    """A tensor ready to be written: `header` is all of it but the raw bytes; `chunks` gives those, `size` in all."""

    header: TensorProto
    size: int
    chunks: Callable[[], Iterator[Chunk]]

    def checked(self) -> Iterator[Chunk]:
        """Yields the chunks; a total that is not `size` is a ModelError."""
        total = 0
        for chunk in self.chunks():
            total += len(chunk)
            yield chunk
        if total != self.size:
            expected = f"{self.size} for {list(self.header.dims)}"
            raise ModelError(f"constant {self.header.name!r} has {total} bytes, expected {expected}")


def payload(constant: gs.Constant, *, raw: bool = False) -> Payload:
    """Returns what to write for a constant; untouched tensors keep their encoding unless `raw` asks for bytes."""
    values, name = constant._values, constant.name
    if isinstance(values, (InlineValues, ExternalValues)) and constant._export_dtype is None:
        if isinstance(values, InlineValues) and not values.proto.HasField("raw_data") and not _as_raw(values, raw):
            return _whole(values.proto, name)
        return Payload(_header(name, values, values.proto), values.nbytes, values.chunks)
    if isinstance(values, StoredValues) and values.dtype != object:
        return Payload(_header(name, values), values.nbytes, lambda: _chunks(name, values))
    return _array_payload(name, load_array(constant))


def to_bytes(array: Array) -> Chunk:
    """Returns the little-endian bytes that ONNX stores for an array, without a copy where there is none to make."""
    if array.dtype.name in _BITS:
        return numpy_helper.from_array(array).raw_data
    if _is_numpys(array.dtype):
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _array_payload(name: str, array: Array) -> Payload:
    if array.dtype == object or array.dtype.kind in "US":
        return _whole(numpy_helper.from_array(array.astype(object)), name)
    header = TensorProto(name=name, dims=array.shape, data_type=to_onnx_dtype(array.dtype))
    return Payload(header, byte_size(array.shape, array.dtype), lambda: iter((to_bytes(array),)))


def _as_raw(values: InlineValues, raw: bool) -> bool:
    return raw and values.dtype != object


def _whole(proto: TensorProto, name: str) -> Payload:
    header = TensorProto()
    header.CopyFrom(proto)
    if name != proto.name:
        header.name = name
    return Payload(header, 0, lambda: iter(()))


def _header(name: str, values: StoredValues, proto: TensorProto | None = None) -> TensorProto:
    header = TensorProto(dims=values.shape, data_type=to_onnx_dtype(values.dtype))
    if name:
        header.name = name
    if proto is not None:
        header.metadata_props.extend(proto.metadata_props)
        if proto.doc_string:
            header.doc_string = proto.doc_string
    return header


def _chunks(name: str, values: StoredValues) -> Iterator[Chunk]:
    yield to_bytes(_load(name, values))


def _load(name: str, values: LazyValues) -> Array:
    try:
        return np.asarray(values.load())
    except QuantonnxError:
        raise
    except (ValueError, TypeError, IndexError, OSError) as error:
        raise ModelError(f"constant {name!r} cannot be read: {error}", "export the model again") from error


def _cast(values: Array, export_dtype: Any) -> Array:
    if export_dtype is None:
        return values
    dtype = to_numpy_dtype(to_onnx_dtype(export_dtype))
    return values.astype(dtype, copy=False)


def _read_only(values: Array) -> Array:
    view = values.view()
    view.flags.writeable = False
    return view


def _is_numpys(dtype: np.dtype[Any]) -> bool:
    return dtype.num < 256  # from there on: types that a package such as ml_dtypes registered, which have no byte order


def _decode(raw: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.name in _BITS:
        tensor = TensorProto(dims=shape, data_type=to_onnx_dtype(dtype), raw_data=raw.tobytes())
        return numpy_helper.to_array(tensor)
    if _is_numpys(dtype):
        return raw.view(dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    return raw.view(dtype).reshape(shape)
