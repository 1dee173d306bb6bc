"""Run the float model in ONNX Runtime and gather statistics of its inner tensors, at nearly no cost beside it.

Statistics run in a second thread, one sample behind: numpy and ONNX Runtime both work without Python's lock.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from quantonnx.calibration.feeds import input_specs, named
from quantonnx.calibration.sources import Part, shared_rows
from quantonnx.calibration.statistics import ChannelMeans, TensorStatistics
from quantonnx.calibration.taps import Tap, add_mean_taps, add_taps
from quantonnx.errors import CalibrationError, DataError, ModelError
from quantonnx.model import Model

Array = NDArray[Any]
Progress = Callable[[int, int | None], None]

LARGEST_IN_MEMORY = 250_000_000
"""Bytes of weights beyond which a model reaches ONNX Runtime through a temporary file and not through memory."""

LARGEST_REARRANGED = 750_000_000
"""Bytes of weights beyond which ONNX Runtime may not keep them a second time, rearranged for speed."""

_QUIET = 4


def open_session(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    *,
    threads: int | None = None,
    optimize: bool = True,
) -> ort.InferenceSession:
    """Return a quiet session on the CPU; ModelError says why ONNX Runtime does not load the model.

    `threads` is the number within an operator, None as many as ONNX Runtime likes; without `optimize`
    every operator runs as it stands in the file.
    """
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    if not isinstance(model, Model):
        return _load(model, threads, optimize=optimize)
    with ExitStack() as stack:
        source = _prepared(model, stack, lambda proto: None)
        return _load(source, threads, optimize=optimize, bounded=_weight_bytes(model) > LARGEST_REARRANGED)


def collect(
    model: Model,
    tensors: Sequence[str],
    samples: Iterable[Mapping[str, Array]],
    *,
    histogram: bool | Collection[str] = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, TensorStatistics]:
    """Return statistics of each of `tensors` over all samples; see Collector."""
    with Collector(model, tensors, histogram=histogram, threads=threads) as collector:
        collector.run_all(samples, progress)
        return collector.finish()


class Collector:
    """The float model with its inner tensors watched; a context manager.

    `histogram` tells for which tensors one is kept: all, none, or those named. `means` names tensors whose channel
    means are wanted, with whether they have spatial axes. Feeds may differ in shape; where
    every input has the same first dimension, it counts the samples of a feed, and statistics do not depend on how
    samples are grouped. The model is loaded at the first feed. Raises CalibrationError for a tensor that the model
    does not compute, that holds NaN or infinity, or that saw no data.
    """

    def __init__(
        self,
        model: Model,
        tensors: Sequence[str],
        *,
        histogram: bool | Collection[str] = True,
        means: Mapping[str, bool] = MappingProxyType({}),
        threads: int | None = None,
    ) -> None:
        kept = set(tensors if histogram is True else histogram or ())
        self._model = model
        self._threads = threads
        self._statistics = {name: TensorStatistics(name, histogram=name in kept) for name in tensors}
        self._outputs = [value.name for value in model.graph.outputs]
        self._inputs = input_specs(model)
        self._means_wanted = dict(means)
        self._means = {name: ChannelMeans() for name in means}
        self._mean_outputs: dict[str, str] = {}
        self._taps: list[Tap] = []
        self._session: ort.InferenceSession | None = None
        self._worker = _Worker(self._record)
        self._seen = 0
        _check_known(model, tensors)

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.stop()
        self._session = None

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Run one feed, remember its inner tensors, and return the values of the model's own outputs.

        Raises DataError for a feed that does not fit the model's inputs, or holds NaN or infinity.
        """
        where = f"sample {self._seen}"
        checked, _ = Part(named(feed, self._inputs, where), where).feed(self._inputs)
        return self._run(checked, self._outputs)

    def run_all(self, samples: Iterable[Mapping[str, Array]], progress: Progress | None = None) -> None:
        """Run every feed; `progress` is called with the number of samples done and, when known, of all."""
        total = _length(samples) if progress else None
        for feed in samples:
            self._run(feed, [])
            if progress:
                progress(self._seen, total)

    def finish(self) -> dict[str, TensorStatistics]:
        """Return the statistics by tensor, when all that was run is counted."""
        self._worker.stop()
        for stats in self._statistics.values():
            if stats.samples == 0:
                raise CalibrationError(
                    f"tensor {stats.name!r} saw no data, expected at least one sample", "give samples that reach it"
                )
        return self._statistics

    def channel_means(self) -> dict[str, Array]:
        """Return E[x] of each channel, float64 [channels], of the tensors in `means`; after `finish`."""
        return {name: means.mean for name, means in self._means.items()}

    def _run(self, feed: Mapping[str, Array], outputs: list[str]) -> list[Any]:
        session = self._session or self._open(feed)
        wanted = [name for tap in self._taps for name in tap.outputs] + list(self._mean_outputs.values())
        names = outputs + [name for name in dict.fromkeys(wanted) if name not in feed]
        try:
            values = session.run(names, feed)[: len(names)]  # no names mean all outputs to ONNX Runtime
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot run sample {self._seen}: {_first_line(error)}") from error
        rows = shared_rows(feed)
        self._worker.give((dict(feed) | dict(zip(names, values, strict=True)), rows))
        self._seen += rows
        return list(values[: len(outputs)])

    def _open(self, feed: Mapping[str, Array]) -> ort.InferenceSession:
        shapes = {name: value.shape for name, value in feed.items()}
        inner = {name: s.counts is not None for name, s in self._statistics.items() if name not in feed}

        def tap(proto: onnx.ModelProto) -> None:
            self._taps = add_taps(proto, inner, shapes)
            self._mean_outputs = add_mean_taps(proto, self._means_wanted, shapes, self._taps)

        with ExitStack() as stack:
            source = _prepared(self._model, stack, tap)
            bounded = _weight_bytes(self._model) > LARGEST_REARRANGED
            self._session = _load(source, self._threads, bounded=bounded)
        self._taps += [Tap(name, whole=name) for name in self._statistics if name in feed]
        return self._session

    def _record(self, values: Mapping[str, Array], rows: int) -> None:
        for tap in self._taps:
            _check_type(tap.tensor, values[tap.outputs[0]])
            tap.record(self._statistics[tap.tensor], values, rows)
        for tensor, name in self._mean_outputs.items():
            self._means[tensor].update(values[name].reshape(len(values[name]), -1))


class _Worker:
    """A thread that handles what it is given, in order and at most two behind; its failure is the giver's.

    `SimpleQueue` holds no lock of Python's, which Ctrl-C inside `Queue.put` could leave locked for ever.
    """

    def __init__(self, handle: Callable[[Mapping[str, Array], int], None]) -> None:
        self._handle = handle
        self._queue: queue.SimpleQueue[tuple[Mapping[str, Array], int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def give(self, item: tuple[Mapping[str, Array], int]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="calibration statistics", daemon=True)
            self._thread.start()
            self._free.put(None)
            self._free.put(None)
        self._raise()
        self._free.get()
        self._queue.put(item)

    def stop(self) -> None:
        """Wait until everything is handled; a failure is raised once."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._raise()

    def _raise(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._handle(*item)
                except BaseException as error:
                    self._failure = error
            self._free.put(None)


def _check_known(model: Model, tensors: Sequence[str]) -> None:
    known = model.tensors()
    for name in tensors:
        if not isinstance(known.get(name), gs.Variable):
            found = "is a constant" if name in known else "is not in the model"
            raise CalibrationError(f"tensor {name!r} {found}, expected one that the model computes")


def _check_type(name: str, value: Any) -> None:
    if value.dtype != "float32":
        hint = "convert the model to float32 first, or exclude the operator"
        raise CalibrationError(f"tensor {name!r} is {value.dtype}, expected float32", hint)


def _length(samples: Any) -> int | None:
    try:
        return len(samples)
    except TypeError:
        return None


def _prepared(model: Model, stack: ExitStack, change: Callable[[onnx.ModelProto], None]) -> bytes | str:
    """Return what ONNX Runtime loads, with `change` made to a copy of the model: bytes, or a temporary file."""
    if _weight_bytes(model) <= LARGEST_IN_MEMORY:
        proto = model.to_proto()
        change(proto)
        return bytes(proto.SerializeToString())
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantonnx-"))) / "model.onnx"
    model.save(path, external_data=True)
    proto = onnx.load(path, load_external_data=False)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return str(path)


def _weight_bytes(model: Model) -> int:
    constants = (value for value in model.tensors().values() if isinstance(value, gs.Constant))
    return sum(prod(value.shape) * getattr(value.dtype, "itemsize", 1) for value in constants)


def _load(
    source: bytes | str | os.PathLike[str], threads: int | None, *, optimize: bool = True, bounded: bool = False
) -> ort.InferenceSession:
    """Load a model; `bounded` spares the memory of rearranged weights, for some speed."""
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads or 0
    # Idle threads otherwise spin on the core that the statistics need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if bounded:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        loaded = source if isinstance(source, bytes) else os.fspath(source)
        return ort.InferenceSession(loaded, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
