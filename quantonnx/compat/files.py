"""Any of these files in, any of them out: the format is recognised from the content, and named for writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quantonnx.compat.aimet import read_0_6_1, read_1_0_0, write_0_6_1, write_1_0_0
from quantonnx.compat.aimet_v2 import read_2_0_0, write_2_0_0
from quantonnx.compat.configuring import to_config
from quantonnx.compat.encodings import Contents, Encoding, Written
from quantonnx.compat.fields import Fields, load_json
from quantonnx.compat.kinds import WRITABLE, Kind
from quantonnx.compat.models import model_encodings
from quantonnx.compat.ort_overrides import is_overrides, read_overrides, write_overrides
from quantonnx.compat.ort_ranges import is_ranges, read_ranges, write_ranges
from quantonnx.compat.tensorrt import read_cache, write_cache
from quantonnx.errors import ModelError, OutputError

_KNOWN = (
    "expected a quantized .onnx model, a TensorRT calibration cache, AIMET encodings, "
    "or a range cache or TensorQuantOverrides of ONNX Runtime"
)
_START = 4096
_READERS: dict[Kind, Callable[[Fields, str], Contents]] = {
    Kind.AIMET_0_6_1: read_0_6_1,
    Kind.AIMET_1_0_0: read_1_0_0,
    Kind.AIMET_2_0_0: read_2_0_0,
    Kind.ORT_RANGES: read_ranges,
    Kind.ORT_OVERRIDES: read_overrides,
}


@dataclass(frozen=True)
class EncodingFile:
    """A file that was read: its format, and what it says."""

    kind: Kind
    contents: Contents


def read_encodings(source: str | Path) -> EncodingFile:
    """Returns what a file says of quantized tensors, its format recognised from its content.

    Raises ModelError, with one line that names the file and the place in it, for files that are none of these, or
    damaged.
    """
    path = Path(source)
    file = repr(str(path))
    try:
        text = _text(path)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}", _KNOWN) from None
    if text is not None and text.startswith("TRT-"):
        return EncodingFile(Kind.TENSORRT, read_cache(text, file))
    if text is not None and text.lstrip().startswith("{"):
        return _from_json(load_json(text, file), file)
    if path.suffix == ".onnx" or text is None:
        return EncodingFile(Kind.MODEL, model_encodings(path))
    found = f"starts with {text[:40]!r}" if text.strip() else "is empty"
    raise ModelError(f"{file} {found}", _KNOWN)


def _text(path: Path) -> str | None:
    """Returns a text file, None for others; of a model, which may be large, only the start is read."""
    with path.open("rb") as file:
        start = file.read(_START)
        if b"\0" in start:
            return None
        try:
            return (start + file.read()).decode("utf-8-sig")
        except UnicodeDecodeError:
            return None


def _from_json(content: dict[str, Any], file: str) -> EncodingFile:
    kind = _recognised(content)
    if kind is None:
        found = ", ".join(ascii(key) for key in list(content)[:4]) or "no keys"
        raise ModelError(f"{file} is JSON with {found[:120]}", _KNOWN)
    return EncodingFile(kind, _READERS[kind](Fields(content, file), file))


def _recognised(content: dict[str, Any]) -> Kind | None:
    if is_ranges(content):
        return Kind.ORT_RANGES
    sections = [content[key] for key in ("activation_encodings", "param_encodings") if content.get(key) is not None]
    if sections:
        return Kind.AIMET_1_0_0 if all(isinstance(section, list) for section in sections) else Kind.AIMET_0_6_1
    if isinstance(content.get("encodings"), list) and isinstance(content.get("version"), str):
        return Kind.AIMET_2_0_0
    return Kind.ORT_OVERRIDES if is_overrides(content) else None


def write_encodings(encodings: Iterable[Encoding], kind: Kind) -> Written:
    """Returns the text of a file in a format. Raises OutputError for a tensor that the format cannot say."""
    writers: dict[Kind, Callable[[Iterable[Encoding]], Written]] = {
        Kind.TENSORRT: write_cache,
        Kind.AIMET_0_6_1: write_0_6_1,
        Kind.AIMET_1_0_0: write_1_0_0,
        Kind.AIMET_2_0_0: write_2_0_0,
        Kind.ORT_RANGES: write_ranges,
        Kind.ORT_OVERRIDES: write_overrides,
        Kind.CONFIG: _write_config,
    }
    if kind not in writers:
        raise OutputError(f"{kind.value!r} cannot be written", f"expected one of {', '.join(WRITABLE)}")
    return writers[kind](encodings)


def _write_config(encodings: Iterable[Encoding]) -> Written:
    content, left = to_config(encodings)
    return Written(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), left)
