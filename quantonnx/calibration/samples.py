"""Where sample data comes from: anything a person has becomes one stream of feeds that can be read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.feeds import Feed, InputSpec, fixed_batch, input_specs, joined, named, whole_batches
from quantonnx.calibration.images import IMAGE_SUFFIXES, ImageOptions, read_image
from quantonnx.calibration.random_data import random_parts
from quantonnx.calibration.sources import (
    Part,
    StackedArrays,
    array_file,
    file_digest,
    natural_order,
    protobuf_feed,
    read_labels,
    whole_file,
)
from quantonnx.errors import DataError

__all__ = ["Feed", "ImageOptions", "InputSpec", "Samples", "input_specs", "open_samples", "read_labels"]

Array = NDArray[Any]


class Samples:
    """A stream of feeds: iterate as often as the source allows, with the same result.

    Where the model's batch is fixed, a limit is rounded up to whole batches, and a last batch that stays incomplete is
    dropped. `labels` are the labels kept beside the data, or None; `digest` identifies it, or is None when it cannot.
    """

    def __init__(
        self,
        parts: Callable[[], Iterable[Part]],
        inputs: Sequence[InputSpec],
        *,
        length: int | None = None,
        batch_size: int = 1,
        limit: int | None = None,
        labels: Array | None = None,
        files: Sequence[Path] | str = (),
    ) -> None:
        self.inputs = tuple(inputs)
        self._parts = parts
        self._length = length
        self._batch_size = batch_size
        self._limit = limit if limit is None else whole_batches(limit, self.inputs)
        self._labels = labels
        self._files = files

    def __iter__(self) -> Iterator[Feed]:
        left = self._limit
        found = False
        for feed, rows in _batches(self._parts(), self.inputs, self._batch_size):
            if left is not None and rows > left and fixed_batch(self.inputs) is None:
                feed, rows = {name: value[:left] for name, value in feed.items()}, left
            if left != 0:
                found = True
                yield feed
            left = None if left is None else max(left - rows, 0)
            if left == 0:
                break
        if not found:
            raise DataError("the data holds no samples, expected at least one")

    def __len__(self) -> int:
        """The number of samples; TypeError where the source does not tell before it is read."""
        if self._length is None:
            raise TypeError("the number of samples is not known before they are read")
        return self._length if self._limit is None else min(self._length, self._limit)

    @property
    def labels(self) -> Array | None:
        """The labels of these samples, one each, or None."""
        return self._labels if self._labels is None or self._limit is None else self._labels[: self._limit]

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the files behind the data and how many samples are taken, or None without files."""
        if not self._files:
            return None
        digest = hashlib.sha256(f"{self._limit}".encode())
        for path in [self._files] if isinstance(self._files, str) else self._files:
            digest.update(path.encode() if isinstance(path, str) else file_digest(path))
        return digest.hexdigest()

    def limit(self, count: int) -> Samples:
        """Return the first `count` samples of these."""
        if count < 1:
            raise DataError(f"the number of samples is {count}, expected at least 1")
        limited = Samples(self._parts, self.inputs, batch_size=self._batch_size, labels=self._labels)
        limited._length, limited._files = self._length, self._files
        count = whole_batches(count, self.inputs)
        limited._limit = count if self._limit is None else min(count, self._limit)
        return limited


def open_samples(
    data: Any,
    inputs: Sequence[InputSpec],
    *,
    limit: int | None = None,
    batch_size: int = 1,
    images: ImageOptions | None = None,
    random: int | None = None,
    seed: int = 0,
) -> Samples:
    """Return the feeds in `data` for a model with these inputs.

    `data` is a path (.npz, .npy, a folder of those, of images, or of `test_data_set_*`), an array or a mapping of
    stacked arrays, an iterable of feeds (mappings, arrays, or sequences in the order of the inputs), an object
    with `get_next()` as ONNX Runtime's CalibrationDataReader, a function that returns such an iterable, or Samples.
    `random` in its place makes that many seeded random samples. Stacked arrays are cut into feeds of `batch_size`;
    a model with a fixed batch gets exactly that, and rows that do not fill it are left out. Raises DataError.
    """
    if batch_size < 1:
        raise DataError(f"the batch size is {batch_size}, expected at least 1")
    if (data is None) == (random is None):
        raise DataError("there is no data to calibrate on", "give samples, or ask for random data by their number")
    if random is not None:
        parts, length = random_parts(random, inputs, seed)
        files = f"random {random} {seed}"
        samples = Samples(parts, inputs, length=length, batch_size=batch_size, files=files)
    elif isinstance(data, Samples):
        samples = data
    elif isinstance(data, (str, os.PathLike)):
        samples = _from_path(Path(data), inputs, batch_size, images or ImageOptions())
    else:
        samples = _from_object(data, inputs, batch_size)
    return samples if limit is None else samples.limit(limit)


def _batches(parts: Iterable[Part], inputs: Sequence[InputSpec], batch_size: int) -> Iterator[tuple[Feed, int]]:
    """Check each part against the inputs; join and cut rows to the batch that the model, or the caller, wants."""
    fixed, any_yet = fixed_batch(inputs), False
    waiting: list[Feed] = []
    for part in parts:
        feed, rows = part.feed(inputs)
        as_it_is = part.fits(feed, inputs) if fixed else not part.divisible
        if as_it_is and not waiting:
            any_yet = True
            yield feed, rows
            continue
        for row in part.rows(feed, rows):
            if waiting and not fixed and _shapes(row) != _shapes(waiting[0]):
                yield joined(waiting), len(waiting)
                waiting = []
            waiting.append(row)
            if len(waiting) == (fixed or batch_size):
                any_yet = True
                yield joined(waiting), len(waiting)
                waiting = []
    if waiting and not fixed:
        yield joined(waiting), len(waiting)
    elif waiting and not any_yet:
        raise DataError(
            f"the data holds {len(waiting)} samples, the model takes batches of {fixed}",
            f"give at least {fixed} samples, or a model with a dynamic batch",
        )


def _shapes(feed: Feed) -> list[tuple[int, ...]]:
    return [value.shape for value in feed.values()]


def _from_path(path: Path, inputs: Sequence[InputSpec], batch_size: int, images: ImageOptions) -> Samples:
    if not path.exists():
        raise DataError(f"the data {str(path)!r} does not exist, expected a file or a folder")
    if path.is_dir():
        return _from_folder(path, inputs, batch_size, images)
    if path.suffix not in (".npz", ".npy"):
        raise DataError(f"the data {str(path)!r} is not understood, expected .npz, .npy or a folder")
    stacked = StackedArrays(array_file(path), inputs, str(path))
    return Samples(
        stacked.parts,
        inputs,
        length=stacked.length,
        batch_size=batch_size,
        labels=read_labels(path, inputs),
        files=[path],
    )


def _from_folder(path: Path, inputs: Sequence[InputSpec], batch_size: int, images: ImageOptions) -> Samples:
    sets = sorted({file.parent for file in path.glob("**/input_*.pb")}, key=natural_order)
    if sets:
        return Samples(lambda: (protobuf_feed(each, inputs) for each in sets), inputs, length=len(sets), files=sets)
    arrays = sorted(
        (file for file in path.iterdir() if file.suffix in (".npz", ".npy") and file.is_file()), key=natural_order
    )
    if arrays:
        return Samples(
            lambda: (whole_file(each, inputs) for each in arrays), inputs, batch_size=batch_size, files=arrays
        )
    pictures = sorted(
        (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()),
        key=natural_order,
    )
    if not pictures:
        raise DataError(f"the folder {str(path)!r} has no data, expected .npz, .npy, images or test_data_set_* folders")

    def read() -> Iterator[Part]:
        for picture in pictures:
            yield Part({inputs[0].name: read_image(picture, inputs, images)}, str(picture))

    return Samples(read, inputs, length=len(pictures), batch_size=batch_size, files=pictures)


def _files(paths: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    """Returns the files with these endings, sample_2 before sample_10; a pipe is none."""
    return sorted((file for file in paths if file.suffix.lower() in suffixes and file.is_file()), key=natural_order)


def _from_object(data: Any, inputs: Sequence[InputSpec], batch_size: int) -> Samples:
    if isinstance(data, (Mapping, np.ndarray)):
        arrays = data if isinstance(data, Mapping) else {"array": data}
        stacked = StackedArrays(arrays, inputs, "the data")
        return Samples(stacked.parts, inputs, length=stacked.length, batch_size=batch_size)
    length = len(data) if isinstance(data, Sequence) else None
    return Samples(_Feeds(data, inputs).parts, inputs, length=length, batch_size=batch_size)


class _Feeds:
    """Feeds that somebody's object hands out, each used as it comes."""

    def __init__(self, data: Any, inputs: Sequence[InputSpec]) -> None:
        self._data = data
        self._inputs = inputs
        self._spent = False

    def parts(self) -> Iterator[Part]:
        for index, value in enumerate(self._values()):
            where = f"sample {index}"
            yield Part(named(value, self._inputs, where), where, divisible=False)

    def _values(self) -> Iterable[Any]:
        data = self._data
        if callable(data) and (isinstance(data, type) or not hasattr(data, "__iter__")):
            return _iterable(data())
        if hasattr(data, "get_next"):
            return self._drained(data)
        if isinstance(data, Iterator):
            self._spend()
        return _iterable(data)

    def _drained(self, reader: Any) -> Iterator[Any]:
        if hasattr(reader, "rewind"):
            reader.rewind()
        else:
            self._spend()
        return iter(reader.get_next, None)

    def _spend(self) -> None:
        if self._spent:
            raise DataError(
                "the samples can be read only once, and have been",
                "give a list, or a function that returns an iterator",
            )
        self._spent = True


def _iterable(data: Any) -> Iterable[Any]:
    if hasattr(data, "get_next"):
        return iter(data.get_next, None)
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise DataError(
            f"the samples are a {type(data).__name__}, expected a path, an array, or an iterable of feeds by input name"
        )
    return data  # type: ignore[no-any-return] # whatever iterates
