"""ONNX Runtime's range cache: what `save_tensors_data` writes and `quantize_static(calibration_cache_path=…)` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from quantonnx.compat.encodings import Array, Contents, Encoding, Written, checked
from quantonnx.compat.fields import Fields
from quantonnx.decisions import Decision
from quantonnx.errors import OutputError

_ENDS = ("lowest", "highest")


def is_ranges(content: dict[str, Any]) -> bool:
    """Whether a JSON file is a range cache."""
    return content.get("CLS") == "TensorsData"


def read_ranges(content: Fields, file: str) -> Contents:
    """Returns the ranges of a cache; each has `lowest` and `highest`, one number or one for each channel."""
    tensors = Fields(content.values.get("data"), f"{file}: data")
    return Contents(checked((_range(name, entry, file) for name, entry in tensors.objects()), file))


def _range(name: str, entry: Any, file: str) -> Encoding:
    fields = Fields(entry, f"{file}: {name!r}")
    low, high = (_numbers(fields, end) for end in _ENDS)
    if low.shape != high.shape:
        raise fields.error("highest", "as many numbers as lowest has")
    return Encoding(name, low=low, high=high)


def _numbers(fields: Fields, end: str) -> Array:
    if isinstance(fields.values.get(end), dict):
        values = Fields(fields.values[end], f"{fields.where}: {end}").array("data")
    else:
        values = fields.array(end)
    return values.reshape(()) if values.size == 1 else values.reshape(-1)


def write_ranges(encodings: Iterable[Encoding]) -> Written:
    """Returns a range cache of the activations, as float32.

    The range of a symmetric tensor is ± the highest value, from which ONNX Runtime finds the same scale again.
    """
    data: dict[str, Any] = {}
    left: list[Decision] = []
    for encoding in encodings:
        found = encoding.range()
        if encoding.parameter:
            left.append(Decision(encoding.name, "a constant, whose range ONNX Runtime takes from its values"))
        elif encoding.floating:
            left.append(Decision(encoding.name, "its codes are not integers"))
        elif found is None:
            raise OutputError(f"{encoding.name!r} has no type of its codes, so no range", "convert the quantized model")
        else:
            ends = {end: _array(encoding.name, value) for end, value in zip(_ENDS, found, strict=True)}
            data[encoding.name] = ends | {"CLS": "TensorData"}
    if not data:
        raise OutputError("there is no activation to write", "a range cache has activations only")
    method = {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"}
    content = {"CLS": "TensorsData", "data": data, "calibration_method": method, "smooth_quant": False}
    return Written(json.dumps(content, indent=2, ensure_ascii=False) + "\n", tuple(left))


def _array(name: str, values: Array) -> dict[str, Any]:
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)
    if not np.isfinite(stored).all():
        raise OutputError(f"{name!r} has a range that float32 cannot hold", "check its scale")
    return {"data": stored.tolist(), "dtype": "float32", "CLS": "numpy.array"}
