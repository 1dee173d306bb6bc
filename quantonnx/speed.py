"""How fast a quantized model is against its float model, in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantonnx.calibration.loading import open_session
from quantonnx.timing import measure

if TYPE_CHECKING:
    from quantonnx.calibration.samples import Feed
    from quantonnx.verification import Source


@dataclass(frozen=True)
class Speed:
    """Milliseconds of one run of each model, medians of interleaved runs, and the ratio of these."""

    float_ms: float
    quantized_ms: float
    ratio: float
    threads: int = 1


def measure_speed(
    float_source: Source, quantized_source: Source, feed: Feed, *, seconds: float = 2.0, threads: int = 1
) -> Speed:
    """Times both models on one feed in ONNX Runtime, in turns, so that both see the same state of the machine."""
    exact, rough = (open_session(source, threads=threads) for source in (float_source, quantized_source))
    values = dict(feed)
    times = measure(lambda: rough.run(None, values), lambda: exact.run(None, values), seconds)
    return Speed(times.float_ms or 0.0, times.quantized_ms, times.ratio or 0.0, threads)
