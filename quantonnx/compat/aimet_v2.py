"""AIMET's and QNN's encodings 2.0.0: one list whose entries are the inputs and attributes of QuantizeLinear.

Parameters and activations are not told apart in it: what has channels or 32 bits is a parameter.
Source: AIMET's encoding format specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from quantonnx.compat.encodings import (
    Array,
    Contents,
    Encoding,
    Written,
    checked,
    is_symmetric,
    numbers,
    with_numbers,
)
from quantonnx.compat.fields import Fields
from quantonnx.decisions import Decision
from quantonnx.errors import OutputError

_FLOAT8 = "float8e4m3fn"
_BITS = (2, 4, 8, 16, 32)
_TYPES = {f"{'' if signed else 'u'}int{bits}": (bits, signed) for bits in _BITS for signed in (True, False)}
_LARGEST = (1 << 31) - 1


def read_2_0_0(content: Fields, file: str) -> Contents:
    """Returns the encodings of a file of version 2.0.0, or of 2.1.0 without its scales of scales."""
    entries = (Fields(entry, f"{file}: encodings[{index}]") for index, entry in enumerate(content.list("encodings")))
    return Contents(checked(map(_entry, entries), file))


def _entry(fields: Fields) -> Encoding:
    name, kind = fields.text("name"), fields.text("output_dtype")
    if kind != _FLOAT8 and kind not in _TYPES:
        raise fields.error("output_dtype", f"{', '.join(_TYPES)} or {_FLOAT8}")
    bits, signed = _TYPES.get(kind, (8, True))
    scale = _scale(fields)
    zero = fields.array("y_zero_point", whole=True) if "y_zero_point" in fields else np.zeros(scale.shape, np.int64)
    if zero.shape != scale.shape:
        raise fields.error("y_zero_point", f"the shape of the scale, {scale.shape}")
    axis, block = (fields.integer(key, low, _LARGEST) if key in fields else None for key, low in _WHOLE)
    if axis is None and scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    if scale.ndim and axis is None:
        raise fields.error("axis", "the axis of the channels or blocks")
    if scale.ndim > 1 and block is None:
        raise fields.error("block_size", "the size of the blocks, as y_scale has several axes")
    return Encoding(
        name,
        n_bits=bits,
        signed=signed,
        symmetric=kind == _FLOAT8 or is_symmetric(bits, signed=signed, zero_point=zero),
        floating=kind == _FLOAT8,
        axis=axis,
        block_size=block,
        parameter=bool(scale.ndim) or bits == 32,
        **numbers(scale, zero),
    )


_WHOLE = (("axis", -_LARGEST), ("block_size", 1))


def _scale(fields: Fields) -> Array:
    """Returns y_scale, or the product that low-power blocks have in its place."""
    if isinstance(fields.values.get("y_scale"), dict):
        raise fields.error("y_scale", "numbers: scales that are quantized themselves are not supported")
    if "per_block_int_scale" not in fields:
        return fields.array("y_scale")
    blocks, channels = fields.array("per_block_int_scale"), fields.array("per_channel_float_scale")
    if channels.ndim == 1 and blocks.ndim == 2:  # channels along the axis that has no blocks
        channels = channels[:, None] if fields.integer("axis", -2, 1) % 2 else channels[None, :]
    if channels.ndim not in (0, blocks.ndim) or any(
        size not in (1, wanted) for size, wanted in zip(channels.shape, blocks.shape, strict=False)
    ):
        raise fields.error("per_channel_float_scale", f"a shape that fits {blocks.shape}")
    return np.asarray(blocks * channels)


def write_2_0_0(encodings: Iterable[Encoding]) -> Written:
    """Returns a file of version 2.0.0. Tensors that stay in float have no place in it."""
    entries, left = [], []
    for encoding in with_numbers(encodings, "AIMET encodings"):
        if encoding.floating and encoding.n_bits != 8:
            left.append(Decision(encoding.name, "it stays in float, which 2.0.0 has no entries for"))
        else:
            entries.append(_written(encoding))
    return Written(
        json.dumps({"version": "2.0.0", "encodings": entries}, indent=2, ensure_ascii=False) + "\n", tuple(left)
    )


def _written(encoding: Encoding) -> dict[str, Any]:
    kind = _FLOAT8 if encoding.floating else f"{'' if encoding.signed else 'u'}int{encoding.n_bits}"
    if kind != _FLOAT8 and kind not in _TYPES:
        raise OutputError(f"{encoding.name!r} has {encoding.n_bits} bits, 2.0.0 has {_BITS}", "use 1.0.0")
    if encoding.scale is None or encoding.zero_point is None:
        raise OutputError(f"{encoding.name!r} has no scale, which 2.0.0 needs", "use 1.0.0")
    if not encoding.per_tensor and encoding.axis is None:
        raise OutputError(
            f"{encoding.name!r} has channels, and its file does not say along which axis",
            "convert from the quantized model, or use 1.0.0",
        )
    written = {"name": encoding.name, "output_dtype": kind, "y_scale": encoding.scale.tolist()}
    if encoding.zero_point.any():
        written["y_zero_point"] = encoding.zero_point.tolist()
    if not encoding.per_tensor:
        written["axis"] = encoding.axis
    if encoding.block_size is not None:
        written["block_size"] = encoding.block_size
    return written
