"""How fast a quantized model is against its float model, in the same run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from quantonnx.calibration.session import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

    from quantonnx.calibration.samples import Feed
    from quantonnx.verification import Source

_SHORTEST_TIMING = 0.002
_FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Speed:
    """Milliseconds of one run of each model, medians of interleaved runs, and the median of their ratios."""

    float_ms: float
    quantized_ms: float
    ratio: float
    threads: int = 1


def measure_speed(
    float_source: Source, quantized_source: Source, feed: Feed, *, seconds: float = 2.0, threads: int = 1
) -> Speed:
    """Times both models on one feed in ONNX Runtime, in turns, so that both see the same state of the machine."""
    sessions = [open_session(source, threads=threads) for source in (float_source, quantized_source)]
    feed = dict(feed)
    repeats = [_repeats(session, feed) for session in sessions]
    times: list[tuple[float, float]] = []
    deadline = time.perf_counter() + seconds
    while len(times) < _FEWEST_ROUNDS or time.perf_counter() < deadline:
        exact, rough = (_time(session, feed, count) for session, count in zip(sessions, repeats, strict=True))
        times.append((exact, rough))
    float_ms, quantized_ms = (1e3 * median(column) for column in zip(*times, strict=True))
    return Speed(float_ms, quantized_ms, median(rough / exact for exact, rough in times), threads)


def _repeats(session: ort.InferenceSession, feed: Feed) -> int:
    _time(session, feed, 3)
    return max(1, math.ceil(_SHORTEST_TIMING / max(_time(session, feed, 1), 1e-7)))


def _time(session: ort.InferenceSession, feed: Feed, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        session.run(None, feed)
    return (time.perf_counter() - started) / count
