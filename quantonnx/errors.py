"""Every exception that quantonnx raises on purpose.

QuantonnxError          anything below; `str()` is one line for a person, `.hint` says what to do
├── ModelError          a file that cannot be read, or a graph that cannot be worked on
├── DataError           samples that do not fit the model's inputs
├── ConfigError         a setting that is unknown or makes no sense
├── PatternError        a pattern declaration that cannot be compiled
├── PlanError           a plan that does not fit the model
├── TargetError         an unknown target, or a format that it refuses
├── CalibrationError    statistics that give no scale: no data, NaN, infinity
└── OutputError         a result that cannot be written
"""

from __future__ import annotations


class QuantonnxError(Exception):
    """The root: `message` names the thing, what was found and what was expected; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class ModelError(QuantonnxError):
    """A file that cannot be read, or a graph that cannot be worked on."""


class DataError(QuantonnxError):
    """Samples that do not fit the model's inputs."""


class ConfigError(QuantonnxError):
    """A setting that is unknown or makes no sense."""


class PatternError(QuantonnxError):
    """A pattern declaration that cannot be compiled."""


class PlanError(QuantonnxError):
    """A plan that does not fit the model."""


class TargetError(QuantonnxError):
    """An unknown target, or a format that it refuses."""


class CalibrationError(QuantonnxError):
    """Statistics that give no scale: no data, NaN, infinity."""


class OutputError(QuantonnxError):
    """A result that cannot be written."""


def said(error: BaseException) -> str:
    """Returns in one line what an error says that is not one of ours; where it says nothing, of which kind it is."""
    return " ".join(str(error).split()) or type(error).__name__
