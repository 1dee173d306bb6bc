"""Measures one quantized model after the other on the same samples; the float one runs once, as memory allows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.concurrency import MOST_AT_ONCE, cores, in_order
from quantonnx.errors import ConfigError, DataError
from quantonnx.model import Model
from quantonnx.search.goals import Feed, Goal, Runner, Score
from quantonnx.tallying import Comparison, Tally
from quantonnx.verification import Source, batch_of, open_to_compare, run_sample

if TYPE_CHECKING:
    import onnxruntime as ort

Array = NDArray[Any]

MOST_REMEMBERED = 256_000_000
"""Bytes of float outputs that are kept; what goes beyond is computed again for each model."""


class Evaluation:
    """A float model, the samples and the labels that others are compared with, and the bar that they have to meet.

    `samples` are feeds that can be read again; `labels` those of `compare`.
    """

    def __init__(
        self,
        reference: Source,
        samples: Iterable[Feed],
        goal: Goal,
        labels: Array | None = None,
        threads: int | None = None,
    ) -> None:
        self.samples = samples
        self.goal = goal
        self.labels = labels
        self.count = 0
        self._at_once = min(cores(threads), MOST_AT_ONCE)
        self._threads = max(cores(threads) // self._at_once, 1)
        self._reference = open_to_compare(reference, self._threads)
        self._names = [value.name for value in self._reference.get_outputs()]
        self._known: dict[bytes, list[Any]] = {}
        self._held = 0
        self._exact: float | None = None

    def score(self, model: Model) -> Score:
        """Returns what is measured of a quantized model. Raises ConfigError where the bar has nothing to measure."""
        session = open_to_compare(model, self._threads)
        own = self.goal.function
        if own is None:
            return self._judged(self._compared(session))
        sqnr = math.nan if self.goal.min_sqnr is None else self._compared(session).sqnr_db
        if self._exact is None:
            self._exact = self._asked(self._reference)
        return Score(getattr(own, "__name__", "metric"), self._asked(session), self._exact, sqnr)

    def _compared(self, session: ort.InferenceSession) -> Comparison:
        tally = Tally(self._names, self.labels)

        def both(task: tuple[int, Feed]) -> tuple[list[Any], list[Any], int]:
            return self._floats(*task), run_sample(session, self._names, task[1], task[0]), batch_of(task[1])

        for exact, rough, rows in in_order(both, enumerate(self.samples), self._at_once):
            tally.add(exact, rough, rows)
        self.count = tally.samples
        return tally.result()

    def _floats(self, position: int, feed: Feed) -> list[Any]:
        key = _digest(feed)
        known = self._known.get(key)
        if known is not None:
            return known
        found = run_sample(self._reference, self._names, feed, position)
        size = sum(np.asarray(value).nbytes for value in found)
        if self._held + size <= MOST_REMEMBERED:
            self._held += size
            self._known[key] = found
        return found

    def _judged(self, found: Comparison) -> Score:
        metric = self.goal.metric or ("accuracy" if found.accuracy is not None else "agreement")
        if metric == "accuracy" and found.accuracy is not None and found.float_accuracy is not None:
            return Score("accuracy", found.accuracy, found.float_accuracy, found.sqnr_db)
        if metric == "accuracy":
            raise ConfigError("the metric accuracy has no labels", "put an array `labels` into the evaluation data")
        if metric == "agreement" and found.agreement is not None:
            return Score("agreement", found.agreement, 1.0, found.sqnr_db)
        if self.goal.max_drop is not None:
            hint = "it needs labels, or an output that holds class scores; or give --min-sqnr, or --metric FILE.py:NAME"
            raise ConfigError("--max-drop has nothing to measure", hint)
        return Score("sqnr", sqnr_db=found.sqnr_db)

    def _asked(self, session: ort.InferenceSession) -> float:
        own = self.goal.function
        assert own is not None
        try:
            return float(own(_runner(session), self.samples))
        except Exception as error:
            name = getattr(own, "__name__", "the metric")
            raise DataError(
                f"the metric {name} fails: {type(error).__name__}: {error}",
                "it is called with a function from a feed to the outputs by name, and with the samples",
            ) from error


def _runner(session: ort.InferenceSession) -> Runner:
    names = [value.name for value in session.get_outputs()]

    def run(feed: Feed) -> Mapping[str, Array]:
        return dict(zip(names, session.run(names, dict(feed)), strict=True))

    return run


def _digest(feed: Feed) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(feed):
        found.update(name.encode())
        found.update(repr(np.shape(feed[name])).encode())
        found.update(np.ascontiguousarray(feed[name]).tobytes())
    return found.digest()
