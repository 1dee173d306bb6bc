"""From a path, bytes or a protobuf to a parsed model, and every refusal of a bad file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import (
    GraphProto,
    ModelProto,
    SparseTensorProto,
    TensorProto,
    helper,
    inliner,
    shape_inference,
    version_converter,
)

from quantonnx.errors import ModelError
from quantonnx.expansion import refuse_explosion
from quantonnx.scanning import scan
from quantonnx.tensor_sizes import complete, refuse_expansion, refuse_negative
from quantonnx.weights import ExternalValues, InlineValues, SparseValues, StoredValues, to_onnx_dtype

Source = str | os.PathLike[str] | bytes | ModelProto

_NOT_ONNX_HINT = "pass a file that torch.onnx.export or another exporter wrote"
_STARTS = (
    (b"version https://git-lfs", "run `git lfs pull` to get the file that this pointer stands for"),
    (b"PK", "this is a zip archive; unpack it, or export the PyTorch model with torch.onnx.export"),
    (b"<", "this is a web page; download the file itself"),
)


@dataclass(frozen=True)
class Opened:
    """A source that was parsed: the protobuf, the file it came from (None: memory), the SHA-256 of its bytes."""

    proto: ModelProto
    path: Path | None
    digest: str


def open_source(source: Source) -> Opened:
    """Parses a path, bytes or a ModelProto (which is not kept); ModelError says what is wrong with it."""
    if isinstance(source, ModelProto):
        data, path, name = source.SerializeToString(deterministic=True), None, "the model"
    elif isinstance(source, bytes):
        data, path, name = source, None, "the model"
    else:
        path = Path(source)
        name = repr(str(path))
        scanned = _scan_file(path)
        if scanned is not None:
            return Opened(_parse(scanned[0], name), path, scanned[1])
        data = _read_file(path)
    return Opened(_parse(data, name), path, hashlib.sha256(data).hexdigest())


def inline_functions(proto: ModelProto) -> ModelProto:
    """Returns the model with its local functions inlined; the data of initializers does not go through the inliner."""
    if not proto.functions:
        return proto
    refuse_explosion(proto)
    light, weights = set_weights_aside(proto)
    mixed = _mixes_opsets(proto)
    try:
        typed = shape_inference.infer_shapes(_with_weight_types(light)) if mixed else light
        inlined = inliner.inline_local_functions(typed, convert_version=mixed)
    except Exception as error:  # onnx raises its C++ errors as several unrelated types
        raise ModelError(f"the model's functions cannot be inlined: {_first_line(error)}") from error
    if inlined.functions:
        names = ", ".join(function.name for function in inlined.functions)
        raise ModelError(f"functions {names} cannot be inlined", "inline them when exporting")
    del inlined.graph.initializer[:], inlined.graph.sparse_initializer[:]
    inlined.graph.initializer.extend(weights.initializer)
    inlined.graph.sparse_initializer.extend(weights.sparse_initializer)
    if mixed:
        _drop_weight_types(inlined, {info.name for info in proto.graph.value_info})
    return inlined


def convert(proto: ModelProto, opset: int, weights: Iterable[gs.Constant]) -> ModelProto:
    """Returns the model at another opset; `weights`, which are inputs of `proto`, become initializers without data."""
    try:
        converted = version_converter.convert_version(proto, opset)
    except Exception as error:  # onnx raises its C++ errors as several unrelated types
        problem = f"the model cannot be converted to opset {opset}: {_first_line(error)}"
        raise ModelError(problem, "export it at that opset") from error
    light = {item.name: item for item in weights}
    inputs = [info for info in converted.graph.input if info.name not in light]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    for name, item in light.items():
        converted.graph.initializer.add(name=name, dims=item.shape, data_type=to_onnx_dtype(item.dtype))
    return converted


def set_weights_aside(proto: ModelProto) -> tuple[ModelProto, GraphProto]:
    """Returns a copy of the model whose initializers have a type and no data, and the graph that has the data."""
    light = ModelProto()
    copy_fields(proto, light, without={"graph"})
    copy_fields(proto.graph, light.graph, without={"initializer", "sparse_initializer"})
    for tensor in proto.graph.initializer:
        light.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    for sparse in proto.graph.sparse_initializer:
        light.graph.initializer.add(name=sparse.values.name, dims=sparse.dims, data_type=sparse.values.data_type)
    return light, proto.graph


def copy_fields(source: Message, target: Any, *, without: set[str]) -> None:
    """Copies every field that is set, also one that this code has never heard of, except those named."""
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name in without:
            continue
        if isinstance(value, Message):
            getattr(target, name).CopyFrom(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(target, name, value)
        else:
            getattr(target, name).extend(value)


class ExternalData:
    """Finds the external data of tensors, and refuses what is missing, too short or outside the model's folder."""

    def __init__(self, path: Path | None, folder: Path | None, hollow: Collection[str] = ()) -> None:
        """Tensors that are called `hollow` have a type and no data, which comes later."""
        self._hollow = hollow
        self.sizes: dict[Path, int] = {}
        self._paths: dict[str, Path] = {}
        self._folder = folder
        self._roots = [folder.resolve()] if folder else []
        if path:
            self._roots.append(path.resolve().parent)  # a hub's cache links the model and its data to the same folder

    def values(self, tensor: TensorProto) -> StoredValues:
        """Returns the values of a tensor, wherever they are, unread."""
        refuse_negative(tensor.name, tensor.dims)
        if tensor.data_location != TensorProto.EXTERNAL:
            return InlineValues(tensor) if tensor.name in self._hollow else complete(InlineValues(tensor))
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in self._paths:
            self._paths[location] = self._path(tensor.name, location)
        path = self._paths[location]
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        except ValueError:
            raise ModelError(f"initializer {tensor.name!r} has an external offset that is no number") from None
        values = ExternalValues(_without_data(tensor), path, offset)
        self._check_range(values, length)
        return values

    def sparse(self, sparse: SparseTensorProto) -> StoredValues:
        """Returns the values of a sparse tensor, as the dense one that it stands for."""
        values = self.values(sparse.values)
        refuse_expansion(sparse, values)
        return SparseValues(sparse.dims, values, self.values(sparse.indices))

    def make_inline(self, tensor: TensorProto) -> None:
        """Loads a tensor of an attribute, which has to stay whole when the model is written elsewhere."""
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = b"".join(self.values(tensor).chunks())
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")

    def _path(self, name: str, location: str) -> Path:
        if self._folder is None:
            raise ModelError(f"initializer {name!r} is in the external file {location!r}", "pass the model's path")
        if (
            not isinstance(location, str)
            or not location
            or Path(location).is_absolute()
            or ".." in Path(location).parts
        ):
            raise ModelError(
                f"initializer {name!r} points at {location!r}, outside the model's folder",
                "put the data beside the model and export again",
            )
        try:
            path = (self._folder / location).resolve()
            self.sizes[path] = self._size(name, location, path)
        except (OSError, RuntimeError, ValueError):  # too long, a circle of links, a NUL in it
            raise ModelError(f"initializer {name!r} points at {location[:80]!r}, which is no file") from None
        return path

    def _size(self, name: str, location: str, path: Path) -> int:
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ModelError(
                f"external data {location!r} of {name!r} links to outside the model's folder", "copy it there"
            )
        if not path.is_file():
            raise ModelError(f"external data file {location!r} is missing", f"put it into {str(self._folder)!r}")
        return path.stat().st_size

    def _check_range(self, values: ExternalValues, length: int) -> None:
        name, size, end = values.proto.name, self.sizes[values.path], values.offset + values.nbytes
        if values.offset < 0 or end > size or length not in (-1, values.nbytes):
            raise ModelError(
                f"external data file {values.path.name!r} is too short or damaged: {name!r} needs bytes "
                f"{values.offset} to {end}, the file has {size}",
                "download or export it again",
            )


def _mixes_opsets(proto: ModelProto) -> bool:
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    entries = [entry for function in proto.functions for entry in function.opset_import]
    return any(versions.get(entry.domain, entry.version) != entry.version for entry in entries)


def _with_weight_types(light: ModelProto) -> ModelProto:
    """Adds the types of initializers, without which onnx cannot convert a function that reads them."""
    known = {info.name for info in (*light.graph.value_info, *light.graph.input)}
    for tensor in light.graph.initializer:
        if tensor.name not in known:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.value_info.append(info)
    return light


def _drop_weight_types(proto: ModelProto, known: set[str]) -> None:
    added = {tensor.name for tensor in proto.graph.initializer} - known
    kept = [info for info in proto.graph.value_info if info.name not in added]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _without_data(tensor: TensorProto) -> TensorProto:
    light = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, doc_string=tensor.doc_string)
    light.metadata_props.extend(tensor.metadata_props)
    return light


def _scan_file(path: Path) -> tuple[bytes, str] | None:
    try:
        return scan(path)
    except OSError:  # reading the file says what is wrong
        return None


def _read_file(path: Path) -> bytes:
    try:
        if path.is_char_device():
            raise ModelError(f"{str(path)!r} is a device", "name one .onnx file")
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no file {str(path)!r}", "check the path") from None
    except IsADirectoryError:
        raise ModelError(f"{str(path)!r} is a folder", "name one .onnx file") from None
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}", "check its permissions") from error


def _parse(data: bytes, name: str) -> ModelProto:
    if not data:
        raise ModelError(f"{name} is empty (0 bytes)", "download or export it again")
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise _not_onnx(data, name) from None
    if not proto.HasField("graph") or not proto.graph.output:
        raise _not_onnx(data, name)
    return proto


def _not_onnx(data: bytes, name: str) -> ModelError:
    for start, hint in _STARTS:
        if data.startswith(start):
            return ModelError(f"{name} is not an ONNX model", hint)
    if data[:1] == b"\x08":  # the key of ir_version, with which ONNX files begin
        return ModelError(f"{name} is truncated or damaged", "download or export it again")
    return ModelError(f"{name} is not an ONNX model", _NOT_ONNX_HINT)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
