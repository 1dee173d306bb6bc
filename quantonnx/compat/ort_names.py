"""The words of onnxruntime.quantization, so that a script which imports them from here needs no other change."""

from __future__ import annotations

import abc
from enum import Enum
from typing import Any, TypeVar

from quantonnx.errors import ConfigError
from quantonnx.plan import near

Word = TypeVar("Word", bound=Enum)


class _Named(Enum):
    def __str__(self) -> str:
        return self.name


class QuantType(_Named):
    """The types of codes."""

    QInt8 = 0
    QUInt8 = 1
    QFLOAT8E4M3FN = 2
    QInt16 = 3
    QUInt16 = 4
    QInt4 = 5
    QUInt4 = 6


class QuantFormat(_Named):
    """How quantized operators are written; only QDQ is, here."""

    QOperator = 0
    QDQ = 1


class CalibrationMethod(Enum):
    """How ranges are chosen."""

    MinMax = 0
    Entropy = 1
    Percentile = 2
    Distribution = 3


class CalibrationDataReader(abc.ABC):
    """What gives samples one after the other: `get_next` returns a feed by input name, None after the last."""

    @classmethod
    def __subclasshook__(cls, subclass: type) -> bool:
        return callable(getattr(subclass, "get_next", None)) or NotImplemented

    @abc.abstractmethod
    def get_next(self) -> dict[str, Any] | None:
        """Returns the next feed, or None."""

    def __iter__(self) -> CalibrationDataReader:
        return self

    def __next__(self) -> dict[str, Any]:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed

    def __len__(self) -> int:
        raise NotImplementedError

    def set_range(self, start_index: int, end_index: int) -> None:
        """Restricts the samples to those from `start_index` to before `end_index`."""
        raise NotImplementedError


def word(kind: type[Word], value: Any, where: str) -> Word:
    """Returns the member of `kind` that a value names: a member, one of ONNX Runtime's own, or text such as `QInt8`,
    `qint8` or `int8`. Raises ConfigError for any other."""
    text = value.name if isinstance(value, Enum) else str(value).rpartition(".")[2]
    members = {member.name.lower(): member for member in kind}
    found = members.get(text.lower()) or members.get(f"q{text.lower()}")
    if found is None:
        names = [member.name for member in kind]
        raise ConfigError(f"{where} is {text!r}", near(text, names) or f"known are {', '.join(names)}")
    return found


def dtype_of(value: Any, where: str) -> str:
    """Returns what our configuration calls a QuantType: `int8`, `uint16`, `float8e4m3fn`, …"""
    return word(QuantType, value, where).name.removeprefix("Q").lower()
