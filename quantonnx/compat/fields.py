"""JSON that other programs wrote, taken apart with one-line errors: which file, where in it, what was found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.errors import ModelError

Array = NDArray[Any]

_LONGEST = 60
_FLAGS = {"true": True, "false": False}


def load_json(text: str, file: str) -> dict[str, Any]:
    """Returns the object in a JSON text. Raises ModelError for anything else, and for a key that is there twice."""
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ModelError(f"{file} is nested too deeply", "check the file") from None
    except ValueError as error:
        raise ModelError(f"{file} is no JSON: {error}", "check the file") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds {_short(content)}", "expected a JSON object")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_short(key)} is there twice in one object")
        found[key] = value
    return found


class Fields:
    """One object of a file: every value is checked where it is asked for, and errors say where it stands."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise ModelError(f"{where} is {_short(values)}", "expected an object")
        self.values: dict[str, Any] = values
        self.where = where

    def error(self, key: str, expected: str) -> ModelError:
        """Returns the error for the value of a key."""
        found = f"is {_short(self.values[key])}" if key in self.values else "is absent"
        return ModelError(f"{self.where}: {key} {found}", f"expected {expected}")

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def objects(self) -> Iterator[tuple[str, Any]]:
        """Yields all keys, which are names of tensors, with their values."""
        for key, value in self.values.items():
            if not _is_name(key):
                raise ModelError(f"{self.where} has the name {_short(key)}", "expected a name in Unicode")
            yield key, value

    def text(self, key: str) -> str:
        """Returns text that is not empty."""
        value = self.values.get(key)
        if not _is_name(value):
            raise self.error(key, "text")
        return str(value)

    def integer(self, key: str, low: int, high: int) -> int:
        """Returns a whole number from `low` to `high`."""
        value = self.values.get(key)
        number = _number(value)
        if number is None or not number.is_integer() or not low <= number <= high:
            raise self.error(key, f"a whole number from {low} to {high}")
        return int(number)

    def flag(self, key: str) -> bool:
        """Returns true or false, which AIMET also writes as text."""
        value = self.values.get(key)
        found = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
        if found is None:
            raise self.error(key, "true or false")
        return found

    def array(self, key: str, *, whole: bool = False) -> Array:
        """Returns a number as 0-d, a list of numbers as 1-d, lists of lists with more axes; `whole` ones as int64."""
        expected = f"{'whole ' if whole else ''}numbers, in lists of one length"
        try:
            values = np.array(self.values.get(key))
        except (ValueError, RecursionError, OverflowError):
            raise self.error(key, expected) from None
        if values.dtype.kind not in "iuf" or not values.size or not _is_plain(self.values[key]):
            raise self.error(key, expected)
        values = values.astype(np.float64)
        if whole and not ((values == np.rint(values)) & (abs(values) < 2.0**53)).all():
            raise self.error(key, expected)
        return values.astype(np.int64) if whole else values

    def list(self, key: str) -> list[Any]:
        """Returns a list."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.error(key, "a list")
        return value


def _is_name(value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_plain(value: Any) -> bool:
    """Whether there are numbers at the end of all lists, and no true or false among them, which numpy takes for 1."""
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = ascii(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
