"""From protobuf to a file: weights streamed, nothing half-written.

A protobuf is a sequence of fields, each with its length in front. So a model can be written field by field with one
tensor in memory at a time, which the protobuf package itself cannot do.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO, cast

import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, TensorProto

from quantonnx.errors import ModelError
from quantonnx.exporting import EXTERNAL_FROM, Document, export_value, is_plain, stored_bytes
from quantonnx.importing import Extras
from quantonnx.weights import Payload, payload
from quantonnx.wire import varint

PROTOBUF_LIMIT = (1 << 31) - 1

_ALIGNMENT = 4096  # runtimes map external data into memory by pages
_GRAPH_KEY, _INITIALIZER_KEY, _RAW_DATA_KEY = b"\x3a", b"\x2a", b"\x4a"  # field number << 3 | 2


def whole_proto(document: Document) -> ModelProto:
    """Returns the model as one protobuf; ModelError where that would be over 2 GB."""
    _check_size(document)
    proto = ModelProto()
    proto.CopyFrom(document.model)
    proto.graph.CopyFrom(document.graph)
    for constant in document.constants:
        part = payload(constant)
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(part.header)
        if part.size:
            tensor.raw_data = b"".join(part.checked())
    return proto


def light_proto(document: Document) -> tuple[ModelProto, dict[str, gs.Constant]]:
    """Returns the model with its larger or unusual constants as inputs, and those constants by name."""
    weights = {item.name: item for item in document.constants if not _is_light(item)}
    small = tuple(filter(_is_light, document.constants))
    proto = whole_proto(Document(document.model, document.graph, small))
    given = {info.name for info in proto.graph.input}
    nothing = Extras()
    proto.graph.input.extend(export_value(item, nothing) for name, item in weights.items() if name not in given)
    return proto, weights


def write_embedded(document: Document, file: BinaryIO) -> None:
    """Writes the model as one file, one tensor in memory at a time."""
    _check_size(document)
    parts = [(_frame(part), part) for part in map(payload, document.constants)]
    body = document.graph.SerializeToString(deterministic=True)
    length = len(body) + sum(len(frame) + part.size for frame, part in parts)
    file.write(document.model.SerializeToString(deterministic=True))
    file.write(_GRAPH_KEY + varint(length) + body)
    for frame, part in parts:
        file.write(frame)
        file.writelines(part.checked())


def write_external(document: Document, file: BinaryIO, data: BinaryIO, location: str) -> None:
    """Writes the model to `file` and its tensors from 1 KB on to `data`, which the model calls `location`."""
    graph = GraphProto()
    graph.CopyFrom(document.graph)
    for constant in document.constants:
        outside = stored_bytes(constant) >= EXTERNAL_FROM
        part = payload(constant, raw=outside)
        tensor = graph.initializer.add()
        tensor.CopyFrom(part.header)
        if outside and part.size:
            _write_outside(tensor, part, data, location)
        elif part.size:
            tensor.raw_data = b"".join(part.checked())
    body = graph.SerializeToString(deterministic=True)
    file.write(document.model.SerializeToString(deterministic=True))
    file.write(_GRAPH_KEY + varint(len(body)) + body)


def digest(document: Document) -> str:
    """Returns the SHA-256 of what `write_external` would write, one tensor in memory at a time."""
    model, data = _Hashed(), _Hashed()
    write_external(document, cast(BinaryIO, model), cast(BinaryIO, data), "data")
    model.write(data.hash.digest())
    return model.hash.hexdigest()


class _Hashed(io.RawIOBase):
    """A file that keeps the digest of what is written, and nothing else."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._size = 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size


def _is_light(constant: gs.Constant) -> bool:
    return is_plain(constant) and stored_bytes(constant) < EXTERNAL_FROM


def _frame(part: Payload) -> bytes:
    header = part.header.SerializeToString(deterministic=True)
    if part.size:
        header += _RAW_DATA_KEY + varint(part.size)
    return bytes(_INITIALIZER_KEY + varint(len(header) + part.size) + header)


def _write_outside(tensor: TensorProto, part: Payload, data: BinaryIO, location: str) -> None:
    offset = -(-data.tell() // _ALIGNMENT) * _ALIGNMENT
    data.write(bytes(offset - data.tell()))
    data.writelines(part.checked())
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", part.size)):
        tensor.external_data.add(key=key, value=str(value))


def _check_size(document: Document) -> None:
    if document.size > PROTOBUF_LIMIT:
        size = f"{document.size / 1e9:.1f} GB"
        raise ModelError(f"the model takes {size}, and one ONNX file holds 2 GB", "save it with external data")
