"""The files that hold samples, read a row at a time so that memory does not grow with their number."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from quantonnx.calibration.feeds import Feed, InputSpec, named
from quantonnx.errors import DataError, said
from quantonnx.reading import ExternalData

Array = NDArray[Any]
LABELS = ("label", "labels")
"""What arrays beside the samples are called that are no input of a model, unless it has one of that name."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a source yields: arrays by input name, of one sample or of several; `where` names them in an error.

    A `divisible` part may be cut and joined along the first axis; another is fed as it comes.
    """

    arrays: Feed
    where: str
    divisible: bool = True

    def feed(self, inputs: Sequence[InputSpec]) -> tuple[Feed, int]:
        """Return the checked arrays, a missing batch axis added, and the number of samples. Raises DataError."""
        feed = {}
        for spec in inputs:
            array = spec.cast(self.arrays[spec.name], self.where)
            if spec.shape and array.ndim == len(spec.shape) - 1 and spec.fits((1, *array.shape), batch=True):
                array = array[None]
            if not spec.fits(array.shape, batch=bool(spec.shape)):
                raise DataError(
                    f"input {spec.name!r} of {self.where} has shape {list(array.shape)}, expected {spec.text}"
                )
            feed[spec.name] = np.asarray(array, order="C")
        return feed, shared_rows(feed)

    @staticmethod
    def fits(feed: Feed, inputs: Sequence[InputSpec]) -> bool:
        """Return whether the feed can be run as it is, its batch too."""
        return all(spec.fits(feed[spec.name].shape) for spec in inputs)

    @staticmethod
    def rows(feed: Feed, count: int) -> Iterator[Feed]:
        """Cut the feed into single samples."""
        if count == 1:
            yield feed
            return
        for row in range(count):
            yield {name: value[row : row + 1] for name, value in feed.items()}


class StackedArrays:
    """Arrays with samples along axis 0, one for each input of the model."""

    def __init__(self, arrays: Mapping[str, Any], inputs: Sequence[InputSpec], where: str) -> None:
        wanted = {spec.name for spec in inputs}
        kept = {name: value for name, value in arrays.items() if name in wanted or name not in LABELS}
        given = {name: _stacked(value, f"{name!r} of {where}") for name, value in kept.items()}
        self._arrays = named(dict.fromkeys(given, 0), inputs, where) and _matched(given, inputs)
        self._inputs = inputs
        self._where = where
        self.length = self._common_length()

    def parts(self) -> Iterator[Part]:
        """Yield a part for each sample."""
        streams = {name: _rows_of(value) for name, value in self._arrays.items()}
        for index in range(self.length):
            rows = {name: next(stream) for name, stream in streams.items()}
            yield Part({n: self._with_batch(n, row) for n, row in rows.items()}, f"sample {index} of {self._where}")

    def _with_batch(self, name: str, row: Array) -> Array:
        """A row of an array that is stacked on top of the input's own batch axis has one already."""
        shape = next(spec.shape for spec in self._inputs if spec.name == name)
        return row if shape is not None and row.ndim == len(shape) else row[None]

    def _common_length(self) -> int:
        lengths = {name: value.shape[0] if value.shape else 0 for name, value in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the arrays of {self._where} hold {lengths} samples, expected as many of each")
        return int(next(iter(lengths.values())))


class _ArrayStream:
    """An array in a file in numpy's format, whose rows are read one after the other."""

    def __init__(self, open_file: Callable[[ExitStack], IO[bytes]], where: str, size: int) -> None:
        self._open = open_file
        self._where = where
        with ExitStack() as stack, _reading(where):
            file = open_file(stack)
            self.shape, self.fortran, self.dtype = _header(file, where)
            self._nbytes = prod(self.shape) * self.dtype.itemsize
            if self._nbytes > size - file.tell():
                rows = max(self.shape[0], 1) if self.shape else 1
                ends = max(size - file.tell(), 0) * rows // self._nbytes
                raise DataError(f"{where} ends in sample {ends}, expected {rows} samples")

    def rows(self) -> Iterator[Array]:
        with ExitStack() as stack:
            with _reading(self._where):
                file = self._open(stack)
                _header(file, self._where)
            if self.fortran:
                yield from self._read(file, self._nbytes, 0).reshape(self.shape, order="F")
                return
            size = prod(self.shape[1:]) * self.dtype.itemsize
            for index in range(self.shape[0]):
                yield self._read(file, size, index).reshape(self.shape[1:])

    def _read(self, file: IO[bytes], size: int, index: int) -> Array:
        with _reading(self._where):
            data = file.read(size)
            if len(data) < size:
                raise DataError(f"{self._where} ends in sample {index}, expected {self.shape[0]} samples")
            return np.frombuffer(data, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.stack(list(self.rows())) if self.shape and self.shape[0] else np.zeros(self.shape, self.dtype)


def array_file(path: Path) -> Mapping[str, Any]:
    """Return the arrays of an .npz or .npy file by name, still in the file. Raises DataError on pickles or damage."""
    if path.suffix == ".npy":
        size = path.stat().st_size
        return {path.stem: _ArrayStream(lambda stack: stack.enter_context(path.open("rb")), repr(str(path)), size)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile raises several types
        raise DataError(f"{str(path)!r} is not an .npz file: {error}") from error
    return {
        member.filename.removesuffix(".npy"): _ArrayStream(
            _member(path, member), f"{member.filename!r} of {str(path)!r}", member.file_size
        )
        for member in members
    }


def whole_file(path: Path, inputs: Sequence[InputSpec]) -> Part:
    """Return an .npz or .npy file of a folder: one sample, or a batch."""
    arrays = {name: np.asarray(value) for name, value in array_file(path).items() if name not in LABELS}
    return Part(named(arrays, inputs, str(path)), str(path))


def read_labels(path: Path | str, inputs: Sequence[InputSpec] = ()) -> Array | None:
    """Return the array called `label` or `labels` of an .npz file, unless an input has that name, or None."""
    if Path(path).suffix != ".npz":
        return None
    arrays = array_file(Path(path))
    names = [name for name in LABELS if name in arrays and name not in {spec.name for spec in inputs}]
    return np.asarray(arrays[names[0]]) if names else None


def protobuf_feed(folder: Path, inputs: Sequence[InputSpec]) -> Part:
    """Return the sample in `input_0.pb`, `input_1.pb`, …: TensorProto messages in the order of the inputs."""
    feed = {}
    for index, spec in enumerate(inputs):
        path = folder / f"input_{index}.pb"
        try:
            feed[spec.name] = ExternalData(None, None).values(TensorProto.FromString(path.read_bytes())).load()
        except Exception as error:
            raise DataError(f"input {spec.name!r} cannot be read from {str(path)!r}, expected a TensorProto") from error
    return Part(feed, str(folder), divisible=False)


def natural_order(path: Path) -> list[Any]:
    """Sort sample_2 before sample_10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"([0-9]+)", str(path))]


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file and its name, or of the protobufs in a folder."""
    digest = hashlib.sha256(path.name.encode())
    for file in sorted(path.glob("*.pb")) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.digest()


def _member(path: Path, member: zipfile.ZipInfo) -> Callable[[ExitStack], IO[bytes]]:
    return lambda stack: stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turns whatever zipfile, zlib and numpy raise on a damaged file into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = said(error)
        raise DataError(f"{where} cannot be read: {reason}", "save it again") from error


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # zipfile, zlib and Python's parser raise many types
        raise DataError(f"{where} is not an array in numpy's format: {' '.join(str(error).split())}") from error
    if any(size < 0 for size in shape):
        raise DataError(f"{where} has the shape {list(shape)}, expected no negative size")
    if dtype.hasobject:
        raise DataError(f"{where} holds pickled objects, expected numbers", "pickled arrays are refused")
    return shape, fortran, dtype


def _matched(arrays: Mapping[str, Any], inputs: Sequence[InputSpec]) -> dict[str, Any]:
    if len(arrays) == len(inputs) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    return {spec.name: arrays[spec.name] for spec in inputs}


def _stacked(value: Any, where: str) -> Any:
    if isinstance(value, _ArrayStream):
        return value
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"{where} is not an array: {error}", "give samples of one shape") from error


def _rows_of(value: Any) -> Iterator[Array]:
    return value.rows() if isinstance(value, _ArrayStream) else iter(np.asarray(value))


def shared_rows(feed: Mapping[str, Array]) -> int:
    """Return the number of samples in a feed: the first dimension that all its inputs share, else 1."""
    first = {value.shape[0] if value.ndim else None for value in feed.values()}
    return (first.pop() or 1) if len(first) == 1 else 1
