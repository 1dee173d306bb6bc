"""The names of the ways to choose a range, and the number that a way may take: as text, mapping or value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quantonnx.calibration.statistics import HALF_BINS
from quantonnx.errors import ConfigError

FEWEST_BINS, MOST_BINS = 16, 2 * HALF_BINS


class Method(StrEnum):
    """How a range is chosen; HISTOGRAM and MOVING_AVERAGE_MINMAX are other names of MSE and MOVING_AVERAGE.

    AUTO is the one of the others with which the whole model errs least; MSE where no samples tell.
    """

    MINMAX = "minmax"
    MOVING_AVERAGE = "moving_average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"
    AUTO = "auto"
    HISTOGRAM = "mse"  # an alias
    MOVING_AVERAGE_MINMAX = "moving_average"  # an alias


_ALIASES = {
    "histogram": Method.MSE,
    "tf_enhanced": Method.MSE,
    "max": Method.MINMAX,
    "kl": Method.ENTROPY,
    "moving_average_minmax": Method.MOVING_AVERAGE,
}
_NAMES = {**{method.value: method for method in Method}, **_ALIASES}
_PARAMETERS = {
    Method.PERCENTILE: "percentile",
    Method.MOVING_AVERAGE: "averaging_constant",
    Method.MSE: "bins",
    Method.ENTROPY: "bins",
}


@dataclass(frozen=True)
class RangeMethod:
    """A method and its parameter: the percentage of values (50 to 100) that PERCENTILE keeps, the weight of the newest
    sample (above 0, at most 1) in MOVING_AVERAGE, the most `bins` (16 to 8192) over which MSE and ENTROPY see the
    values, None as many as are good. Raises ConfigError for a parameter that the method does not have."""

    kind: Method = Method.MINMAX
    percentile: float = 99.99
    averaging_constant: float = 0.01
    bins: int | None = None

    def __post_init__(self) -> None:
        for name in ("percentile", "averaging_constant", "bins"):
            if getattr(self, name) != getattr(RangeMethod, name):
                _check_has(self.kind, name)
        if not 50 <= self.percentile <= 100:
            raise ConfigError(f"the percentile is {self.percentile:g}, expected 50 to 100")
        if not 0 < self.averaging_constant <= 1:
            constant = f"{self.averaging_constant:g}"
            raise ConfigError(f"the averaging constant is {constant}, expected a number above 0 and at most 1")
        if self.bins is not None and not FEWEST_BINS <= self.bins <= MOST_BINS:
            raise ConfigError(f"bins is {self.bins}, expected {FEWEST_BINS} to {MOST_BINS}")

    def __str__(self) -> str:
        """The text that `parse_method` reads as this method."""
        value = getattr(self, _PARAMETERS.get(self.kind, ""), None)
        return self.kind.value if value is None else f"{self.kind.value}:{repr(value).removesuffix('.0')}"

    @property
    def needs_even_steps(self) -> bool:
        """Whether errors are measured in steps of one scale, which floats do not have."""
        return self.kind in (Method.MSE, Method.ENTROPY, Method.AUTO)

    @property
    def needs_histogram(self) -> bool:
        """Whether extremes alone are not enough."""
        return self.kind not in (Method.MINMAX, Method.MOVING_AVERAGE)


def parse_method(told: str | Mapping[str, Any] | RangeMethod) -> RangeMethod:
    """Return the method written as `minmax`, `moving_average[:0.01]`, `percentile[:99.99]`, `entropy[:bins]`,
    `mse[:bins]` or `auto`, or as a mapping such as `{"method": "percentile", "percentile": 99.9}`.

    `histogram` and `tf_enhanced` are `mse`, `max` is `minmax`, `kl` is `entropy`. Raises ConfigError.
    """
    if isinstance(told, RangeMethod):
        return told
    if isinstance(told, Mapping):
        return _from_mapping(told)
    name, colon, number = (told.value if isinstance(told, Method) else str(told)).strip().lower().partition(":")
    kind = _kind(name)
    if not colon:
        return RangeMethod(kind)
    parameter = _PARAMETERS.get(kind)
    if parameter is None or not re.fullmatch(
        r"\d+" if parameter == "bins" else r"(\d+(\.\d*)?|\.\d+)(e-?\d+)?", number
    ):
        raise ConfigError(f"calibration method {told!r} is not understood", _expected(kind))
    return RangeMethod(kind, **{parameter: _number(parameter, float(number))})


def _from_mapping(told: Mapping[str, Any]) -> RangeMethod:
    if not isinstance(told.get("method"), str):
        raise ConfigError(
            f"calibration method {dict(told)!r} has no name", "expected such as {method: percentile, percentile: 99.9}"
        )
    kind = _kind(told["method"].strip().lower())
    given = {name: value for name, value in told.items() if name != "method" and value is not None}
    for name in given:
        _check_has(kind, name)
    return RangeMethod(kind, **{name: _number(name, value) for name, value in given.items()})


def _kind(name: str) -> Method:
    if name in _NAMES:
        return _NAMES[name]
    near = difflib.get_close_matches(name, _NAMES, 1) or ["mse"]
    raise ConfigError(
        f"unknown calibration method {name!r}, expected one of {', '.join(_NAMES)}", f"did you mean {near[0]!r}?"
    )


def _check_has(kind: Method, parameter: Any) -> None:
    own = _PARAMETERS.get(kind)
    if parameter != own:
        raise ConfigError(
            f"calibration method {kind.value!r} has no parameter {parameter!r}",
            f"it takes {own!r}" if own else "it takes none",
        )


def _number(name: str, value: Any) -> Any:
    """Return a parameter as the number that it has to be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (name == "bins" and value != int(value)):
        raise ConfigError(f"{name} is {value!r}, expected {'a whole number' if name == 'bins' else 'a number'}")
    return int(value) if name == "bins" else float(value)


def _expected(kind: Method) -> str:
    own = _PARAMETERS.get(kind)
    return f"expected {kind.value}:{own.upper()}, a number" if own else f"{kind.value} takes no number"
