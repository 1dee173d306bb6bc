"""The whole flow on one page: read, fuse, place, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantonnx.calibrating import calibrate
from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import ForwardLoop, Progress
from quantonnx.config import QuantConfig
from quantonnx.plan import Plan
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import Source, transform
from quantonnx.target import Patterns, Target


def quantize(
    source: Source,
    samples: Any = None,
    *,
    target: str | Path | Target | None = None,
    config: QuantConfig | None = None,
    patterns: str | Path | Patterns = (),
    plan: Plan | None = None,
    forward_loop: ForwardLoop | None = None,
    statistics: Statistics | str | Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | str | None = None,
) -> QuantizedModel:
    """Returns a calibrated Q/DQ model; `.save(path)` writes it.

    Without `target` it is the plan's, or tensorrt. `source` is a path, bytes, a ModelProto or a Model; it is not
    changed. `samples`, `forward_loop`, `statistics` and `memory_limit` are those of `calibrate`. Where the
    target would run every operator slower in integers, the result has no pair and is the fused float model
    (`faster_in_float`); `keep_slow` in the configuration quantizes all the same. Raises a QuantonnxError, one line for
    a person, for anything that cannot be done.
    """
    fused = transform(source, target=target, patterns=patterns, plan=plan)
    placed = insert_qdq(fused.model, fused.matches, config)
    placed.refuse_nothing("the model")
    return calibrate(
        placed,
        samples,
        forward_loop=forward_loop,
        statistics=statistics,
        limit=limit,
        threads=threads,
        progress=progress,
        memory_limit=memory_limit,
    )
