"""The files of a model, found without reading its weights: the ONNX file itself and its external data."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx

from quantonnx.errors import ModelError


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
    """Finds the external files of the initializers: parsing a whole model takes three times its size in memory."""
    for graph in _fields(content, range(len(content)), onnx.ModelProto.GRAPH_FIELD_NUMBER):
        for tensor in _fields(content, graph, onnx.GraphProto.INITIALIZER_FIELD_NUMBER):
            for field in _fields(content, tensor, onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER):
                entry = onnx.StringStringEntryProto.FromString(content[field.start : field.stop])
                if entry.key == "location":
                    yield entry.value


def _fields(content: mmap.mmap, where: range, number: int) -> Iterator[range]:
    """Yields where the messages in one field of a protobuf message are."""
    at = where.start
    while at < where.stop:
        key, at = _varint(content, at)
        kind = key & 7
        size, at = _varint(content, at) if kind in (0, 2) else ({1: 8, 5: 4}[kind], at)
        if kind == 2 and key >> 3 == number:
            yield range(at, at + size)
        at += size if kind else 0


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """Returns a number of 7 bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while content[at] > 127:
        value |= (content[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    return value | content[at] << shift, at + 1
