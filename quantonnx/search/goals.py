"""What a search has to reach: how much a metric may fall, how near the outputs have to be, and what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from quantonnx.errors import ConfigError

Array = NDArray[Any]
Feed = dict[str, Array]
Runner = Callable[[Feed], Mapping[str, Array]]
Metric = Callable[[Runner, Iterable[Feed]], float]
"""A user's own metric, larger is better: it gets a function from a feed to the outputs by name, and the samples."""

METRICS = ("accuracy", "agreement", "sqnr")
_ROUNDING = 1e-9
_LARGEST_BARE = 0.1  # of a share: whoever writes 0.5 more often means half a point than half of all samples


@dataclass(frozen=True)
class Score:
    """What was measured of one model.

    `metric` names what may fall, `value` is that of the quantized model and `exact` of the float one; both are NaN
    where only the SQNR counts. `sqnr_db` is that of the worst output, NaN where it was not measured.
    """

    metric: str
    value: float = math.nan
    exact: float = math.nan
    sqnr_db: float = math.nan

    @property
    def drop(self) -> float:
        """How far the metric fell."""
        return self.exact - self.value

    def __str__(self) -> str:
        parts = []
        if math.isfinite(self.drop):
            parts.append(f"{self.metric} {self.value:.4f} (float {self.exact:.4f})")
        if not math.isnan(self.sqnr_db):
            parts.append(f"SQNR {self.sqnr_db:.2f} dB")
        return ", ".join(parts) or "nothing measured"


@dataclass(frozen=True)
class Goal:
    """A bar: the metric falls by at most `max_drop` (0.005 is half a point of a share), the worst output has at least
    `min_sqnr` dB, or both.

    `metric` is `accuracy` (with labels), `agreement` (share of equal top-1 classes), `sqnr`, or a function
    `metric(run, samples) -> float`, larger being better, where `run(feed)` returns the outputs by name and `samples`
    are the feeds of the evaluation. By default it is accuracy where there are labels, else agreement. Raises
    ConfigError for a bar that says nothing.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    metric: str | Metric | None = None

    def __post_init__(self) -> None:
        if self.max_drop is None and self.min_sqnr is None:
            raise ConfigError("the goal has no bar", "give max_drop (such as 0.005), min_sqnr (such as 30), or both")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ConfigError(f"max_drop is {self.max_drop}", "expected a number of at least 0, such as 0.005")
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise ConfigError(f"min_sqnr is {self.min_sqnr}", "expected a number of dB, such as 30")
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise ConfigError(f"metric is {self.metric!r}", f"expected {', '.join(METRICS)}, or a function")
        if self.metric == "sqnr" and self.max_drop is not None:
            raise ConfigError("the metric sqnr has no drop from float", "give min_sqnr, or another metric for max_drop")

    @property
    def function(self) -> Metric | None:
        """The user's own metric."""
        return self.metric if callable(self.metric) else None

    def reached(self, score: Score) -> bool:
        """Returns whether a score meets the bar."""
        return self.shortfall(score) <= 0

    def shortfall(self, score: Score) -> float:
        """Returns how far a score is from the bar: 0 where it is met, else in decibels or a hundred to a unit."""
        missing = [0.0]
        if self.max_drop is not None:
            missing.append(100 * (score.drop - self.max_drop - _ROUNDING))
        if self.min_sqnr is not None:
            missing.append(self.min_sqnr - score.sqnr_db - _ROUNDING)
        return math.inf if any(map(math.isnan, missing)) else max(missing)

    def __str__(self) -> str:
        parts = [f"a drop of at most {self.max_drop:g}"] if self.max_drop is not None else []
        parts += [f"an SQNR of at least {self.min_sqnr:g} dB"] if self.min_sqnr is not None else []
        return " and ".join(parts)


def parse_drop(text: str, *, share: bool = True) -> float:
    """Returns the number written as `0.5%` or `0.005`. ConfigError for another text, and where a `share` above 0.1 was
    probably meant as a percentage."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?)\s*(%?)\s*", text)
    if found is None:
        raise ConfigError(f"--max-drop is {text!r}", "expected a percentage such as 0.5%, or a share such as 0.005")
    value = float(found[1]) / (100 if found[2] else 1)
    if share and not found[2] and value > _LARGEST_BARE:
        points = f"{100 * value:g} points"
        raise ConfigError(f"--max-drop is {text!r}, which is {points}", f"say {text.strip()}%, or {100 * value:g}%")
    return value


def parse_decibels(text: str) -> float:
    """Returns the number written as `30dB` or `30`. ConfigError for another text."""
    found = re.fullmatch(r"\s*(-?[0-9]*\.?[0-9]+)\s*(?:dB)?\s*", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"--min-sqnr is {text!r}", "expected decibels, such as 30dB")
    return float(found[1])
