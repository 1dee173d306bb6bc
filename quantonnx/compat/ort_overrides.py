"""ONNX Runtime's TensorQuantOverrides as a JSON file, as its static_quantize_runner takes it.

That reader wants scale and zero point of every tensor, and fails on a quant_type, which JSON has as text only. So a
type that all activations (or all constants) have is not written: it belongs into the call, `activation_type=…`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from quantonnx.compat.encodings import Contents, Encoding, Written, checked, is_symmetric, numbers
from quantonnx.compat.fields import Fields
from quantonnx.decisions import Decision
from quantonnx.errors import OutputError

_FLOAT8 = "QFLOAT8E4M3FN"
_TYPES = {f"Q{'' if signed else 'U'}Int{bits}": (bits, signed) for bits in (4, 8, 16) for signed in (True, False)}
_BY_NAME = {name.lower(): name for name in (*_TYPES, _FLOAT8)}
_REFUSED = {
    "convert": "no change of type between two operators: one tensor has one format here",
    "reduce_range": "false: say n_bits: 7 in the configuration",
}
_KEYS = {"scale", "zero_point", "quant_type", "axis", "rmin", "rmax", "symmetric", *_REFUSED}
_LARGEST = (1 << 31) - 1


def is_overrides(content: dict[str, Any]) -> bool:
    """Whether a JSON file could be overrides: lists of objects by tensor."""
    return bool(content) and all(
        isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries) for entries in content.values()
    )


def read_overrides(content: Fields, file: str) -> Contents:
    """Returns what the overrides say; constants are known by their axis only. Refuses `convert` and `reduce_range`."""
    found, left = [], []
    for name, entries in content.objects():
        channels = [Fields(entry, f"{file}: {name!r}") for entry in entries]
        for channel in channels:
            _refuse(channel)
        if any(channel.values for channel in channels):
            found.append(_encoding(name, channels))
        else:
            left.append(Decision(name, "the file says nothing of it"))
    return Contents(checked(found, file), tuple(left))


def _refuse(channel: Fields) -> None:
    for key in channel.values:
        if key not in _KEYS:
            raise channel.error(key, f"one of {', '.join(sorted(_KEYS))} as key")
        if key in _REFUSED and channel.values[key]:
            raise channel.error(key, _REFUSED[key])


def _encoding(name: str, channels: list[Fields]) -> Encoding:
    first = channels[0]
    axis = first.integer("axis", -_LARGEST, _LARGEST) if "axis" in first else None
    if axis is None and len(channels) > 1:
        raise first.error("axis", f"an axis, as there are {len(channels)} channels")
    values: dict[str, Any] = {"axis": axis, "parameter": axis is not None} | _type(first)
    if "scale" in first or "zero_point" in first:
        zero_point = _column(channels, "zero_point", whole=True)
        values |= numbers(_column(channels, "scale"), zero_point)
        if values.get("n_bits") and not values.get("floating"):
            values["symmetric"] = is_symmetric(values["n_bits"], signed=values["signed"], zero_point=zero_point)
    if "rmin" in first or "rmax" in first:
        values |= {"low": _column(channels, "rmin"), "high": _column(channels, "rmax")}
    if "symmetric" in first:
        values["symmetric"] = first.flag("symmetric")
    return Encoding(name, **values)


def _type(first: Fields) -> dict[str, Any]:
    if "quant_type" not in first:
        return {}
    name = _BY_NAME.get(first.text("quant_type").rpartition(".")[2].lower())
    if name is None:
        raise first.error("quant_type", f"{', '.join(_TYPES)} or {_FLOAT8}")
    bits, signed = _TYPES.get(name, (8, True))
    return {"n_bits": bits, "signed": signed, "floating": name == _FLOAT8}


def _column(channels: list[Fields], key: str, *, whole: bool = False) -> Any:
    values = [channel.array(key, whole=whole) for channel in channels]
    for channel, value in zip(channels, values, strict=True):
        if value.size != 1:
            raise channel.error(key, "one number")
    flat = np.array([value.item() for value in values])
    return flat if "axis" in channels[0] else flat.reshape(())


def write_overrides(encodings: Iterable[Encoding]) -> Written:
    """Returns the overrides. Raises OutputError for formats that ONNX Runtime does not have."""
    left: list[Decision] = []
    chosen = [encoding for encoding in encodings if _has_place(encoding, left)]
    types = [_type_name(encoding) for encoding in chosen]
    omitted = set()
    for parameter, option in ((False, "activation_type"), (True, "weight_type")):
        used = {name for name, encoding in zip(types, chosen, strict=True) if encoding.parameter is parameter}
        if len(used) == 1 and (name := used.pop()):
            omitted.add(parameter)
            left.append(Decision(option, f"{name} for all, to be given to quantize_static"))
    content = {
        encoding.name: _entries(encoding, "" if encoding.parameter in omitted else name)
        for encoding, name in zip(chosen, types, strict=True)
    }
    return Written(json.dumps(content, indent=2, ensure_ascii=False) + "\n", tuple(left))


def _has_place(encoding: Encoding, left: list[Decision]) -> bool:
    if encoding.n_bits == 32:
        left.append(Decision(encoding.name, "a bias, whose scale ONNX Runtime derives"))
    elif encoding.floating and encoding.n_bits != 8:
        left.append(Decision(encoding.name, "it stays in float"))
    else:
        return True
    return False


def _type_name(encoding: Encoding) -> str:
    """Returns the name of the type, nothing where it is not known."""
    if encoding.n_bits is None:
        return ""
    name = _FLOAT8 if encoding.floating else f"Q{'' if encoding.signed else 'U'}Int{encoding.n_bits}"
    if name != _FLOAT8 and name not in _TYPES:
        raise OutputError(f"{encoding.name!r} has {encoding.n_bits} bits", "ONNX Runtime's overrides have 4, 8 and 16")
    return name


def _entries(encoding: Encoding, type_name: str) -> list[dict[str, Any]]:
    pairs = {"scale": encoding.scale, "zero_point": encoding.zero_point}
    if encoding.scale is None:
        pairs = {"rmin": encoding.low, "rmax": encoding.high}
    columns = {key: value.tolist() for key, value in pairs.items() if value is not None}
    if not encoding.per_tensor:
        if encoding.block_size is not None or encoding.axis is None:
            what = "blocks" if encoding.block_size is not None else "channels, and its file does not say their axis"
            raise OutputError(f"{encoding.name!r} has {what}", "overrides need channels along a known axis")
        entries = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        entries[0]["axis"] = encoding.axis
    else:
        entries = [columns]
    if type_name:
        entries[0]["quant_type"] = type_name
    return entries
