"""Where the numbers of a pair come from: a calibration method, or what the user fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from quantonnx.calibration.ranges import RangeMethod, parse_method

MINMAX = RangeMethod()


@dataclass(frozen=True)
class Ranging:
    """How scale and zero point are found: by `method`, unless `scale` with `zero_point`, or `range`, is given.

    `min_range` is the least width of the range; `share_with` names the tensor whose numbers these are. With `dynamic`
    they are computed while the model runs.
    """

    method: RangeMethod = MINMAX
    scale: float | tuple[float, ...] | None = None
    zero_point: int | tuple[int, ...] | None = None
    range: tuple[float, float] | None = None
    min_range: float | None = None
    dynamic: bool = False
    share_with: str | None = None

    @property
    def needs_samples(self) -> bool:
        """True where samples have to show the range."""
        return not self.dynamic and self.scale is None and self.range is None

    @property
    def needs_histogram(self) -> bool:
        """True where extremes are not enough."""
        return self.needs_samples and self.method.needs_histogram

    def widened(self, low: float, high: float) -> tuple[float, float]:
        """Returns a range of at least `min_range`, grown upwards."""
        return low, max(high, low + (self.min_range or 0.0))


def ranging_of(said: Mapping[str, Any], method: str) -> Ranging:
    """Returns what settings say about numbers; `method` where they say nothing."""
    if not said:
        return _by(method)
    return Ranging(
        method=parse_method(said.get("calibration_method") or method),
        scale=said.get("scale"),
        zero_point=said.get("zero_point"),
        range=said.get("range"),
        min_range=said.get("min_range"),
        dynamic=bool(said.get("dynamic")),
        share_with=said.get("share_with"),
    )


@cache
def _by(method: str) -> Ranging:
    return Ranging(parse_method(method))


BY_METHOD = Ranging()
"""What holds for constants, and where nothing is said."""
