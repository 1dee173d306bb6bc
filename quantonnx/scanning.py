"""Large files that hold their weights inside: the bytes of weights stay where they are, and are read when needed.

A protobuf is a sequence of fields, each with its length in front. So weights can be passed over without reading them,
which the protobuf package itself cannot do: it holds the file twice while it parses it.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from quantonnx.wire import BYTES, UnreadableError, fields, varint

LARGE_FILE = 1 << 27
"""Bytes from which on a file is read this way."""

_LARGE_TENSOR = 1 << 12
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # numbers of fields in ModelProto, GraphProto and TensorProto


def scan(path: Path) -> tuple[bytes, str] | None:
    """Returns the model without the bytes of its weights, whose place in this file it tells as external data does, and
    the SHA-256 of the file; None for a small file, one that is damaged, of which a parser tells more, and
    one whose name is not UTF-8, which a protobuf cannot hold."""
    if path.stat().st_size < LARGE_FILE:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            light = b"".join(_model(data, path.name))
        except (UnreadableError, DecodeError, UnicodeEncodeError):
            return None
        file.seek(0)
        return light, hashlib.file_digest(file, "sha256").hexdigest()


def _model(data: mmap.mmap, name: str) -> Iterator[bytes]:
    for number, whole, body in fields(data, 0, len(data)):
        if number == _GRAPH and body is not None:
            graph = b"".join(_graph(data, *body, name))
            yield _field(_GRAPH, graph)
        else:
            yield data[slice(*whole)]


def _graph(data: mmap.mmap, start: int, end: int, name: str) -> Iterator[bytes]:
    for number, whole, body in fields(data, start, end):
        large = number == _INITIALIZER and body is not None and body[1] - body[0] >= _LARGE_TENSOR
        light = _tensor(data, *body, name) if large and body is not None else None
        yield data[slice(*whole)] if light is None else _field(_INITIALIZER, light)


def _tensor(data: mmap.mmap, start: int, end: int, name: str) -> bytes | None:
    """The tensor with the place of its bytes; None where it has none of its own."""
    rest, raw = [], []
    for number, whole, body in fields(data, start, end):
        if number == _RAW_DATA and body is not None:
            raw.append(body)
        elif whole[1] - whole[0] < _LARGE_TENSOR:
            rest.append(data[slice(*whole)])
        else:
            return None
    tensor = TensorProto.FromString(b"".join(rest))
    if len(raw) != 1 or tensor.data_location == TensorProto.EXTERNAL:
        return None
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", raw[0][0]), ("length", raw[0][1] - raw[0][0])):
        tensor.external_data.add(key=key, value=str(value))
    return bytes(tensor.SerializeToString(deterministic=True))


def _field(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | BYTES]) + varint(len(body)) + body
