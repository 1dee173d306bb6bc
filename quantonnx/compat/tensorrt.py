"""TensorRT's calibration cache: a header, then a line for each tensor with the bits of its float32 scale.

The scale is max|·|/127, symmetric: of all values only activations are there, each with one scale.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from quantonnx.compat.encodings import Contents, Encoding, Written, checked, numbers, shown
from quantonnx.decisions import Decision
from quantonnx.errors import ModelError, OutputError

HEADER = "TRT-8501-EntropyCalibration2"

_HEADER = re.compile(r"TRT-\d+-\w+")
_BITS = re.compile(r"[0-9a-fA-F]{1,8}")
_HIGHEST = 127
_HINT = "quantize for --target tensorrt, or convert with --to ort-ranges"


def read_cache(text: str, file: str) -> Contents:
    """Returns the scales of a calibration cache; tensors whose scale is 0, which held only zeros, are left out."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not _HEADER.fullmatch(lines[0].strip()):
        raise ModelError(f"{file} starts with {lines[0][:60]!r}", f"expected a header such as {HEADER!r}")
    found, left = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, scale = _entry(line, f"{file}, line {number}")
        if scale == 0:
            left.append(Decision(name, "its scale is 0: calibration saw only zeros"))
        else:
            found.append(Encoding(name, n_bits=8, signed=True, symmetric=True, **numbers(scale)))
    return Contents(checked(found, file), tuple(left))


def _entry(line: str, where: str) -> tuple[str, float]:
    name, colon, bits = line.rpartition(":")
    if not colon or not name or not _BITS.fullmatch(bits.strip()):
        raise ModelError(f"{where} is {line[:60]!r}", "expected `name: ` and 8 hexadecimal digits")
    return name, float(struct.unpack(">f", bytes.fromhex(bits.strip().zfill(8)))[0])


def write_cache(encodings: Iterable[Encoding], *, header: str = HEADER) -> Written:
    """Returns the calibration cache of the activations; ranges without a scale become max|·|/127.

    Raises OutputError for the first activation that has another format than signed, symmetric 8 bits.
    """
    left: list[Decision] = []
    lines = [header, *_lines(encodings, left)]
    if len(lines) == 1:
        raise OutputError("there is no activation to write", "a TensorRT calibration cache has activations only")
    return Written("\n".join(lines) + "\n", tuple(left))


def _lines(encodings: Iterable[Encoding], left: list[Decision]) -> Iterator[str]:
    for encoding in encodings:
        if encoding.parameter:
            left.append(Decision(encoding.name, "a constant, to which TensorRT gives a scale itself"))
        elif encoding.floating and encoding.n_bits != 8:
            left.append(Decision(encoding.name, "it stays in float"))
        elif encoding.only_zeros:
            left.append(Decision(encoding.name, "its range is 0: calibration saw only zeros"))
        else:
            yield f"{_name(encoding)}: {struct.pack('>f', _scale(encoding)).hex()}"


def _name(encoding: Encoding) -> str:
    if "\n" in encoding.name or "\r" in encoding.name:
        raise OutputError(f"the name {encoding.name!r} has more than one line", "a calibration cache has no such names")
    return encoding.name


def _scale(encoding: Encoding) -> np.float32:
    refused = _refused(encoding)
    if refused:
        raise OutputError(
            f"{encoding.name!r} {refused}, a TensorRT calibration cache has int8 with zero point 0", _HINT
        )
    if encoding.scale is not None:
        wanted = encoding.scale
    else:
        assert encoding.low is not None
        assert encoding.high is not None
        wanted = np.maximum(abs(encoding.low), abs(encoding.high)).max() / _HIGHEST
    with np.errstate(over="ignore"):
        scale = np.float32(wanted)
    if not 0 < scale < np.inf:
        raise OutputError(f"{encoding.name!r} has scale {float(wanted):g}", "float32 cannot hold it")
    return scale


def _refused(encoding: Encoding) -> str:
    if encoding.scale is None or encoding.zero_point is None:
        return "" if encoding.low is not None else "has no scale"
    if not encoding.integer:
        return "has float codes" if encoding.floating else "has codes of a type that its file does not say"
    if not encoding.per_tensor:
        return "has a scale for each channel"
    if encoding.n_bits != 8:
        return f"has {encoding.n_bits} bits"
    if encoding.zero_point.any():
        return f"has zero point {shown(encoding.zero_point)}"
    return "" if encoding.signed else "has unsigned codes"
