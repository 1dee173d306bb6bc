"""Libraries of custom operators for ONNX Runtime: registered in every session that is opened while they are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import onnxruntime as ort

from quantonnx.errors import ConfigError

_WANTED: ContextVar[tuple[str, ...]] = ContextVar("wanted", default=())


@contextmanager
def ort_extensions(*libraries: str | os.PathLike[str]) -> Iterator[None]:
    """Registers shared libraries in every session that this thread opens inside the `with`.

    A library is code: ONNX Runtime loads it and runs it. Raises ConfigError for a file that is not there.
    """
    for library in libraries:
        if not Path(library).is_file():
            raise ConfigError(f"there is no library {os.fspath(library)!r}", "name the shared library (.so, .dll)")
    token = _WANTED.set((*_WANTED.get(), *(str(Path(library).absolute()) for library in libraries)))
    try:
        yield
    finally:
        _WANTED.reset(token)


def wanted_extensions() -> tuple[str, ...]:
    """Returns the absolute paths of the libraries to register now."""
    return _WANTED.get()


def register(options: ort.SessionOptions, libraries: tuple[str, ...] | None = None) -> None:
    """Registers the wanted libraries, or others; ConfigError for one that ONNX Runtime cannot load."""
    for library in wanted_extensions() if libraries is None else libraries:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # ONNX Runtime raises its C++ errors as several types
            reason = " ".join(str(error).split())
            raise ConfigError(f"ONNX Runtime cannot load the library {library!r}: {reason}") from error
