"""The files of a model, found without reading its weights: the ONNX file itself and its external data."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx

from quantonnx.errors import ModelError
from quantonnx.wire import fields

_KINDS = (
    onnx.ModelProto,
    onnx.GraphProto,
    onnx.FunctionProto,
    onnx.NodeProto,
    onnx.AttributeProto,
    onnx.SparseTensorProto,
    onnx.TensorProto,
)
_HOLDING: dict[str, dict[int, str]] = {
    kind.DESCRIPTOR.full_name: {
        item.number: item.message_type.full_name
        for item in kind.DESCRIPTOR.fields
        if item.message_type in [other.DESCRIPTOR for other in _KINDS]
    }
    for kind in _KINDS
}
"""By message: its fields that hold tensors, or messages that do, and what these are."""

_EXTERNAL_DATA = (onnx.TensorProto.DESCRIPTOR.full_name, onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER)
_NODE = onnx.NodeProto.DESCRIPTOR.full_name
_SMALL = 1 << 14
"""Bytes below which a node is searched for the name of a place first, which is faster than to walk through it."""


def files_of(source: str | Path) -> tuple[Path, ...]:
    """Returns an ONNX file and those of its external data. Raises ModelError for one that cannot be read."""
    path = Path(source)
    try:
        places = external_places(path)
    except Exception as error:  # protobuf and the system raise several types
        raise ModelError(f"{str(path)!r} cannot be read", "check the file") from error
    return (path, *(path.parent / place for place in sorted(places)))


def file_size(source: str | Path) -> int:
    """Returns the bytes of an ONNX file and of its external data; the weights in it are not read."""
    return sum(file.stat().st_size for file in files_of(source))


def external_files(source: str | Path) -> list[Path]:
    """Returns the files of external data beside an ONNX file, in order; none where it cannot be read, and none that are
    missing or outside its folder: who reads the model says so."""
    path = Path(source)
    try:
        found = files_of(path)[1:]
    except ModelError:
        return []
    roots = {path.absolute().parent.resolve(), path.resolve().parent}
    return [file for file in found if file.is_file() and not roots.isdisjoint(file.resolve().parents)]


def external_places(path: Path) -> set[str]:
    """Returns what a model calls the files of its external data; protobuf and the system raise several types."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return set(_external_places(content))


def _external_places(content: mmap.mmap) -> Iterator[str]:
    """Finds the external files of all tensors: parsing a whole model takes three times its size in memory."""
    open_spans = [(onnx.ModelProto.DESCRIPTOR.full_name, (0, len(content)))]
    while open_spans:  # not by recursion: bodies in bodies may be deeper than Python's stack
        kind, span = open_spans.pop()
        if kind == _NODE and span[1] - span[0] < _SMALL and content.find(b"location", *span) < 0:
            continue
        for number, _, body in fields(content, *span):
            if body is not None and number in _HOLDING[kind]:
                open_spans.append((_HOLDING[kind][number], body))
            elif body is not None and (kind, number) == _EXTERNAL_DATA:
                entry = onnx.StringStringEntryProto.FromString(content[slice(*body)])
                if entry.key == "location":
                    yield entry.value
