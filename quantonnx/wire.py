"""Protobuf as bytes: where the fields of a message are, so that large ones can be passed over without reading them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

BYTES = 2
"""The kind of a field that is made of bytes: a message, a string, packed numbers."""

_VARINT, _EIGHT_BYTES, _FOUR_BYTES = 0, 1, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}

Span = tuple[int, int]


class UnreadableError(Exception):
    """The bytes are not a sequence of fields."""


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, Span, Span | None]]:
    """Yields the number of each field of a message, where all of it is, and where its bytes are if it is made of bytes.

    Raises UnreadableError where the bytes are not a sequence of fields.
    """
    position = start
    while position < end:
        key, after = _varint(data, position, end)
        kind = key & 7
        body = None
        if kind == _VARINT:
            _, after = _varint(data, after, end)
        elif kind == BYTES:
            length, first = _varint(data, after, end)
            after = first + length
            body = first, after
        elif kind in _FIXED:
            after += _FIXED[kind]
        else:
            raise UnreadableError
        if after > end:
            raise UnreadableError
        yield key >> 3, (position, after), body
        position = after


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise UnreadableError


def varint(value: int) -> bytes:
    """Returns how protobuf writes a number that is not negative: seven bits a byte, the lowest first."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
