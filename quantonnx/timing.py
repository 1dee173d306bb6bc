"""Times of two compiled models in turns, so that both see the same state of the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

_SHORTEST_TIMING = 0.002
_FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Times:
    """Medians of interleaved runs in milliseconds, and the ratio of these; None without a float model."""

    quantized_ms: float
    float_ms: float | None = None
    ratio: float | None = None


def measure(quantized: Callable[[], object], exact: Callable[[], object] | None, seconds: float) -> Times:
    """Runs one or both in turns for about `seconds`."""
    runs = [run for run in (quantized, exact) if run is not None]
    repeats = [_repeats(run) for run in runs]
    rounds: list[list[float]] = []
    deadline = time.perf_counter() + seconds
    while len(rounds) < _FEWEST_ROUNDS or time.perf_counter() < deadline:
        rounds.append([_time(run, count) for run, count in zip(runs, repeats, strict=True)])
    medians = [1e3 * median(column) for column in zip(*rounds, strict=True)]
    if exact is None:
        return Times(medians[0])
    return Times(medians[0], medians[1], medians[0] / medians[1])


def _repeats(run: Callable[[], object]) -> int:
    _time(run, 3)
    return max(1, math.ceil(_SHORTEST_TIMING / max(_time(run, 1), 1e-7)))


def _time(run: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - started) / count
