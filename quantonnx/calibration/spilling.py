"""Values that wait on disk, sample by sample, so that memory does not grow with samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.errors import ModelError, OutputError

Array = NDArray[Any]


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Makes one line of what goes wrong while something is put by in a temporary folder: an OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or "it is full"
        raise OutputError(
            f"what waits on disk does not fit into {str(folder.parent)!r}: {reason}", "let TMPDIR name a larger disk"
        ) from error


class Spill:
    """Arrays by sample and name, each in a file of a new folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._kinds: dict[tuple[int, str], tuple[np.dtype[Any], tuple[int, ...]]] = {}
        folder.mkdir()

    def keep(self, sample: int, values: Mapping[str, Any]) -> None:
        """Writes the values of a sample. Raises ModelError for what is no tensor of numbers."""
        for name, value in values.items():
            if not isinstance(value, np.ndarray) or value.dtype.hasobject:
                found = "tensor of strings" if isinstance(value, np.ndarray) else type(value).__name__
                raise ModelError(f"the value {name!r} is a {found}, expected a tensor of numbers where it is kept")
            self._kinds[sample, name] = value.dtype, value.shape
            with on_disk(self._folder):
                np.ascontiguousarray(value).tofile(self._path(sample, name))

    def load(self, sample: int, name: str) -> Array:
        """Returns a value that was kept."""
        dtype, shape = self._kinds[sample, name]
        return np.fromfile(self._path(sample, name), dtype).reshape(shape)

    def drop(self, sample: int, name: str) -> None:
        """Deletes a value that was kept."""
        del self._kinds[sample, name]
        self._path(sample, name).unlink()

    def _path(self, sample: int, name: str) -> Path:
        number = self._numbers.setdefault(name, len(self._numbers))
        return self._folder / f"{number}_{sample}"
