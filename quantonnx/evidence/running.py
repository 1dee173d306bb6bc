"""Runs a model whose outputs are sums, and adds them up over samples: what is remembered does not grow."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnxruntime as ort

from quantonnx.calibration.concurrency import cores, in_order
from quantonnx.calibration.feeds import Progress, length_of
from quantonnx.calibration.loading import first_line, is_large, load_session, prepared, samples_at_once
from quantonnx.calibration.sources import shared_rows
from quantonnx.errors import DataError
from quantonnx.model import Model

Feed = Mapping[str, Any]

_ADD: dict[str, Callable[[float, float], float]] = {"sum": operator.add, "min": min, "max": max}


def totals(
    model: Model,
    outputs: Mapping[str, str],
    samples: Iterable[Feed],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, float], int]:
    """Returns the scalar outputs of a model over all samples, and how many samples there were.

    `outputs` says of each whether it is added up (sum), or its smallest or largest value is kept (min, max). Samples
    run side by side, as in calibration. Raises DataError for a feed that does not run, or where there is none.
    """
    at_once = samples_at_once(model, threads)
    with ExitStack() as stack:
        source = prepared(model, stack, lambda proto: None)
        per_sample = max(cores(threads) // at_once, 1)
        session = load_session(source, per_sample, bounded=is_large(model), pairs_as_written=True)
    found: dict[str, float] = {}
    seen, total = 0, length_of(samples)
    for values, rows in in_order(lambda task: _run(session, outputs, *task), enumerate(samples), at_once):
        seen += rows
        for (name, kind), value in zip(outputs.items(), values, strict=True):
            found[name] = _ADD[kind](found[name], value) if name in found else value
        if progress is not None:
            progress(seen, total)
    if not seen:
        raise DataError("there is no sample to measure on", "check the data")
    return found, seen


def _run(session: ort.InferenceSession, outputs: Mapping[str, str], index: int, feed: Feed) -> tuple[list[float], int]:
    try:
        values = session.run(list(outputs), dict(feed))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise DataError(f"ONNX Runtime cannot run sample {index}: {first_line(error)}") from error
    return [float(value) if np.size(value) else math.nan for value in values], shared_rows(feed)
