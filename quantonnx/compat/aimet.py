"""AIMET's and QNN's encodings 0.6.1 and 1.0.0: activations and parameters, with offsets instead of zero points.

An offset is the lowest code in steps of the scale, so the zero point of unsigned codes with its sign turned; signed
codes stand 2^(bits−1) lower. Whether codes are signed is not said: symmetric ones are, unless their offset is 0. So a
signed asymmetric format comes back as the unsigned one with the same grid.
Source: AIMET's encoding format specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from quantonnx.compat.encodings import Array, Contents, Encoding, Written, checked, numbers, with_numbers
from quantonnx.compat.fields import Fields
from quantonnx.errors import ModelError, OutputError

_SECTIONS = ("activation_encodings", "param_encodings")
_LARGEST_BLOCK = 1 << 31


def read_0_6_1(content: Fields, file: str) -> Contents:
    """Returns the encodings of a file of version 0.6.1: by name a list of objects, one for each channel."""
    found = []
    for section in _present(content):
        for name, entries in Fields(content.values[section], f"{file}: {section}").objects():
            where = f"{file}: {section}: {name!r}"
            if not isinstance(entries, list) or not entries:
                raise ModelError(f"{where} is no list of encodings", "expected a list with one for each channel")
            channels = [Fields(entry, where) for entry in entries]
            found.append(_channels(name, channels, parameter=section == _SECTIONS[1]))
    return Contents(checked(found, file))


def _present(content: Fields) -> list[str]:
    return [section for section in _SECTIONS if section in content]


def _channels(name: str, channels: list[Fields], *, parameter: bool) -> Encoding:
    first = channels[0]
    bits = _bits(first, "bitwidth")
    if _is_float(first):
        return Encoding(name, n_bits=bits, floating=True, parameter=parameter)
    symmetric = first.flag("is_symmetric")
    for channel in channels[1:]:
        if _is_float(channel) or _bits(channel, "bitwidth") != bits or channel.flag("is_symmetric") != symmetric:
            raise ModelError(f"{first.where} has channels of several formats", "expected one for all channels")
    scales, offsets = (
        np.concatenate([channel.array(key, whole=key == "offset").reshape(-1) for channel in channels])
        for key in ("scale", "offset")
    )
    if not len(scales) == len(offsets) == len(channels):
        raise first.error("scale", "a number")
    shape = () if len(channels) == 1 else (len(channels),)
    encoding = _from_offsets(name, bits, scales.reshape(shape), offsets.reshape(shape), symmetric=symmetric)
    return replace(encoding, parameter=parameter)


def read_1_0_0(content: Fields, file: str) -> Contents:
    """Returns the encodings of a file of version 1.0.0: a list of objects. The axis of channels is not in it."""
    found = []
    for section in _present(content):
        for index, entry in enumerate(content.list(section)):
            fields = Fields(entry, f"{file}: {section}[{index}]")
            found.append(replace(_entry(fields), parameter=section == _SECTIONS[1]))
    return Contents(checked(found, file))


def _entry(fields: Fields) -> Encoding:
    name, bits = fields.text("name"), _bits(fields, "bw")
    if _is_float(fields):
        return Encoding(name, n_bits=bits, floating=True)
    kind = fields.text("enc_type")
    if "zero_point_shift" in fields and fields.array("zero_point_shift").any():
        raise fields.error("zero_point_shift", "none: ONNX has whole zero points only")
    if kind == "LPBQ":
        return _low_power_blocks(name, fields)
    if kind not in ("PER_TENSOR", "PER_CHANNEL", "PER_BLOCK"):
        raise fields.error("enc_type", "PER_TENSOR, PER_CHANNEL, PER_BLOCK or LPBQ")
    scale, offset = fields.array("scale"), fields.array("offset", whole=True)
    if scale.shape != offset.shape or scale.ndim > 1:
        raise fields.error("offset", "as many numbers as scale has")
    if kind == "PER_TENSOR":
        if scale.size != 1:
            raise fields.error("scale", "one number, as enc_type is PER_TENSOR")
        scale, offset = scale.reshape(()), offset.reshape(())
    block = fields.integer("block_size", 1, _LARGEST_BLOCK) if kind == "PER_BLOCK" else None
    return replace(_from_offsets(name, bits, scale, offset, symmetric=fields.flag("is_sym")), block_size=block)


def _low_power_blocks(name: str, fields: Fields) -> Encoding:
    """The scale of a block is a whole number times the scale of its channel."""
    bits, block = _bits(fields, "compressed_bw"), fields.integer("block_size", 1, _LARGEST_BLOCK)
    channels, blocks = fields.array("scale").reshape(-1), fields.array("per_block_int_scale").reshape(-1)
    if blocks.size % channels.size:
        raise fields.error("per_block_int_scale", f"a multiple of the {channels.size} channels")
    scale = (blocks.reshape(channels.size, -1) * channels[:, None]).reshape(-1)
    return Encoding(name, n_bits=bits, signed=True, symmetric=True, block_size=block, **numbers(scale))


def _bits(fields: Fields, key: str) -> int:
    return fields.integer(key, 2, 32)


def _is_float(fields: Fields) -> bool:
    kind = fields.text("dtype").lower()
    if kind not in ("int", "float"):
        raise fields.error("dtype", "int or float")
    return kind == "float"


def _from_offsets(name: str, bits: int, scale: Array, offset: Array, *, symmetric: bool) -> Encoding:
    half = 1 << (bits - 1)
    narrow = symmetric and bool(np.all(offset == 1 - half))
    signed = narrow or (symmetric and bool(np.all(offset == -half)))
    return Encoding(
        name,
        n_bits=bits,
        signed=signed,
        symmetric=symmetric and (signed or not offset.any()),
        narrow_range=narrow,
        **numbers(scale, np.zeros_like(offset) if signed else -offset),
    )


def write_0_6_1(encodings: Iterable[Encoding]) -> Written:
    """Returns a file of version 0.6.1. Raises OutputError for blocks, which it cannot say."""
    content: dict[str, Any] = {"version": "0.6.1"} | {section: {} for section in _SECTIONS}
    for encoding in with_numbers(encodings, "AIMET encodings"):
        if encoding.block_size is not None:
            raise OutputError(f"{encoding.name!r} has a scale for each block, which 0.6.1 cannot say", "use 1.0.0")
        content[_SECTIONS[encoding.parameter]][encoding.name] = list(_legacy(encoding))
    return Written(_json(content))


def _legacy(encoding: Encoding) -> Iterator[dict[str, Any]]:
    if _stays_float(encoding):
        yield {"bitwidth": encoding.n_bits, "dtype": "float"}
        return
    assert encoding.n_bits is not None
    assert encoding.scale is not None
    steps = (1 << encoding.n_bits) - 1 - encoding.narrow_range
    for scale, offset in zip(encoding.scale.reshape(-1).tolist(), _offsets(encoding), strict=True):
        yield {
            "bitwidth": encoding.n_bits,
            "dtype": "int",
            "is_symmetric": str(bool(encoding.symmetric)),
            "max": scale * (steps + offset),
            "min": scale * offset,
            "offset": offset,
            "scale": scale,
        }


def write_1_0_0(encodings: Iterable[Encoding]) -> Written:
    """Returns a file of version 1.0.0. The axis of channels is not said in it: it is that of the output channels."""
    content: dict[str, Any] = {"version": "1.0.0"} | {section: [] for section in _SECTIONS} | {"excluded_layers": []}
    for encoding in with_numbers(encodings, "AIMET encodings"):
        content[_SECTIONS[encoding.parameter]].append({"name": encoding.name, **_flat(encoding)})
    return Written(_json(content))


def _flat(encoding: Encoding) -> dict[str, Any]:
    if _stays_float(encoding):
        return {"enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": encoding.n_bits}
    assert encoding.scale is not None
    blocks = {} if encoding.block_size is None else {"block_size": encoding.block_size}
    kind = "PER_BLOCK" if blocks else "PER_TENSOR" if encoding.per_tensor else "PER_CHANNEL"
    return {
        "enc_type": kind,
        "dtype": "INT",
        "bw": encoding.n_bits,
        **blocks,
        "is_sym": bool(encoding.symmetric),
        "scale": encoding.scale.reshape(-1).tolist(),
        "offset": _offsets(encoding),
    }


def _stays_float(encoding: Encoding) -> bool:
    if encoding.floating and encoding.scale is not None:
        raise OutputError(
            f"{encoding.name!r} has float8 codes with a scale, which this version cannot say", "use 2.0.0"
        )
    return encoding.floating


def _offsets(encoding: Encoding) -> list[int]:
    assert encoding.zero_point is not None
    return [encoding.codes[0] - zero for zero in encoding.zero_point.reshape(-1).tolist()]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
