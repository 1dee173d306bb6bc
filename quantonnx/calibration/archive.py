"""The file that statistics are kept in: arrays and a header in one .npz, without pickle, the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.errors import CalibrationError
from quantonnx.placing import into_place
from quantonnx.version import version_of

Array = NDArray[Any]

FORMAT = 1
"""The number of the format: 1 has what `packing` packs."""

_HEADER = "header"
_KIND = "quantonnx statistics"
_AGAIN = "collect them again with --save-statistics"


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Array], *, force: bool) -> None:
    """Write a file, whole or not at all; OutputError where it exists, unless `force`."""
    told = {"kind": _KIND, "format": FORMAT, "quantonnx": version_of(), **header}
    text = np.frombuffer(json.dumps(told, sort_keys=True).encode(), np.uint8)
    content: Any = {_HEADER: text, **arrays}
    with into_place(path, force=force, sources=frozenset()) as (part,), part.open("wb") as file:
        np.savez_compressed(file, **content)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the arrays; CalibrationError for a file that is missing, damaged, of another kind or of
    another format, or that holds pickled objects."""
    name = f"statistics file {str(path)!r}"
    try:
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise CalibrationError(f"{name} cannot be read: {error.strerror}", _AGAIN) from error
    if not is_archive:
        raise CalibrationError(f"{name} is no .npz file", "name one that --save-statistics wrote")
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = _header(archive)
            _check(header, name)
            arrays = {key: archive[key] for key in archive.files if key != _HEADER}
    except CalibrationError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and json raise many types
        raise damaged(path) from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # bytes are what numpy makes of the rest
        raise damaged(path)
    return header, arrays


def damaged(path: Path) -> CalibrationError:
    """Return the error for a file whose parts do not fit together."""
    return CalibrationError(f"statistics file {str(path)!r} is damaged", _AGAIN)


def _header(archive: Any) -> Any:
    if _HEADER not in archive.files:
        return None
    return json.loads(archive[_HEADER].tobytes())


def _check(header: Any, name: str) -> None:
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise CalibrationError(f"{name} holds something else", "name one that --save-statistics wrote")
    if header.get("format") != FORMAT:
        found = header.get("format")
        raise CalibrationError(f"{name} has format {found!r}, this version of quantonnx reads {FORMAT}", _AGAIN)
