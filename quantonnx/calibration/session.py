"""Run the float model in ONNX Runtime and gather statistics of its inner tensors, at nearly no cost beside it.

Samples run side by side, a core each, and statistics follow in a thread of their own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from quantonnx.calibration.collected import DataSource, Statistics
from quantonnx.calibration.concurrency import MOST_AT_ONCE, Follower, Item, cores, in_order
from quantonnx.calibration.digest import SampleDigest
from quantonnx.calibration.feeds import input_specs, named
from quantonnx.calibration.sources import Part, shared_rows
from quantonnx.calibration.statistics import ChannelExtremes, ChannelMeans, TensorStatistics
from quantonnx.calibration.taps import Tap, add_mean_taps, add_outputs, add_taps, check_known, check_type
from quantonnx.errors import CalibrationError, DataError, ModelError
from quantonnx.model import Model

Array = NDArray[Any]
Progress = Callable[[int, int | None], None]

LARGEST_IN_MEMORY = 250_000_000
"""Bytes of weights beyond which a model reaches ONNX Runtime through a temporary file and not through memory."""

LARGEST_REARRANGED = 750_000_000
"""Bytes of weights beyond which ONNX Runtime may not keep them a second time, rearranged for speed."""

_QUIET = 4
_NO_DATA, _REACH_IT = "saw no data, expected at least one sample", "give samples that reach it"


def open_session(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    *,
    threads: int | None = None,
    optimize: bool = True,
    float_biases: bool = False,
) -> ort.InferenceSession:
    """Return a quiet session on the CPU; ModelError says why ONNX Runtime does not load the model.

    `threads` is the number within an operator, None as many as ONNX Runtime likes; without `optimize`
    every operator runs as it stands in the file. With `float_biases`, biases that are float stay so: ONNX Runtime
    otherwise gives them int32 codes between Q/DQ pairs, with a product of two scales that float16 rounds to nothing.
    """
    disabled = ["WeightBiasQuantization"] if float_biases else []
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    if not isinstance(model, Model):
        return _load(model, threads, optimize=optimize, disabled=disabled)
    with ExitStack() as stack:
        source = _prepared(model, stack, lambda proto: None)
        bounded = _weight_bytes(model) > LARGEST_REARRANGED
        return _load(source, threads, optimize=optimize, bounded=bounded, disabled=disabled)


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
    means are wanted, with whether they have spatial axes; `channels` those whose extremes in each channel of the last
    axis are. Feeds may differ in shape; where every input has the same first dimension, it counts the samples of a
    feed, and statistics do not depend on how samples are grouped. The model is loaded at the first feed. Raises
    CalibrationError for a tensor that the model does not compute, that holds NaN or infinity, or that saw no data; with
    `lenient`, the last two are remembered.
    """

    def __init__(
        self,
        model: Model,
        tensors: Sequence[str],
        *,
        histogram: bool | Collection[str] = True,
        means: Mapping[str, bool] = MappingProxyType({}),
        channels: Collection[str] = (),
        threads: int | None = None,
        lenient: bool = False,
    ) -> None:
        kept = set(tensors if histogram is True else histogram or ())
        self._model = model
        self._threads = threads
        self._statistics = {name: TensorStatistics(name, histogram=name in kept) for name in tensors}
        self._outputs = [value.name for value in model.graph.outputs]
        self._inputs = input_specs(model)
        self._digest = SampleDigest([spec.name for spec in self._inputs])
        self._lenient = lenient
        self._refused: dict[str, str] = {}
        self._means_wanted = dict(means)
        self._means = {name: ChannelMeans() for name in means}
        self._mean_outputs: dict[str, str] = {}
        self._channels = {name: ChannelExtremes(name) for name in channels}
        self._taps: list[Tap] = []
        self._session: ort.InferenceSession | None = None
        self._follower = Follower(self._record)
        self._begun = 0
        self._seen = 0
        check_known(model, [*tensors, *channels])

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.stop()
        self._session = None

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Run one feed, remember its inner tensors, and return the values of the model's own outputs.

        Raises DataError for a feed that does not fit the model's inputs, or holds NaN or infinity.
        """
        where = f"sample {self._seen}"
        checked, _ = Part(named(feed, self._inputs, where), where).feed(self._inputs)
        for opened in self._opened([checked], at_once=1):
            item = self._infer(opened, self._outputs)
            self._take(item)
        return [item[0][name] for name in self._outputs]

    def run_all(self, samples: Iterable[Mapping[str, Array]], progress: Progress | None = None) -> None:
        """Run every feed; `progress` is called with the number of samples done and, when known, of all."""
        total = _length(samples) if progress else None
        at_once = 1 if _weight_bytes(self._model) > LARGEST_REARRANGED else min(cores(self._threads), MOST_AT_ONCE)
        for item in in_order(self._infer, self._opened(samples, at_once), at_once):
            self._take(item)
            if progress:
                progress(self._seen, total)

    def finish(self) -> dict[str, TensorStatistics]:
        """Return the statistics by tensor, when all that was run is counted."""
        self._follower.stop()
        for stats in self._statistics.values():
            if stats.samples == 0 and stats.name not in self._refused:
                self._refuse(stats.name, CalibrationError(f"tensor {stats.name!r} {_NO_DATA}", _REACH_IT))
        return {name: stats for name, stats in self._statistics.items() if name not in self._refused}

    def collected(self, name: str = "") -> Statistics:
        """Return all that was seen, to be saved; `name` is what the data is called."""
        tensors = self.finish()
        means = {tensor: means for tensor, means in self._means.items() if means.samples}
        data = DataSource(name, self._digest.samples, self._digest.hexdigest)
        return Statistics(self._model.digest, tensors, means, dict(self._refused), (data,))

    def channel_means(self) -> dict[str, Array]:
        """Return E[x] of each channel, float64 [channels], of the tensors in `means`; after `finish`."""
        return {name: means.mean for name, means in self._means.items()}

    def channel_extremes(self) -> dict[str, ChannelExtremes]:
        """Return the extremes of each channel of the tensors in `channels`; after `finish`."""
        for name, extremes in self._channels.items():
            if not extremes.samples:
                raise CalibrationError(f"tensor {name!r} {_NO_DATA}", _REACH_IT)
        return self._channels

    def _opened(
        self, samples: Iterable[Mapping[str, Array]], at_once: int
    ) -> Iterator[tuple[int, Mapping[str, Array]]]:
        """Number the feeds; the model is loaded for the first, whose shapes say how tensors are tapped."""
        for feed in samples:
            if self._session is None:
                self._session = self._open(feed, max(cores(self._threads) // at_once, 1))
            yield self._begun, feed
            self._begun += shared_rows(feed)

    def _infer(self, sample: tuple[int, Mapping[str, Array]], outputs: Sequence[str] = ()) -> Item:
        index, feed = sample
        assert self._session is not None
        wanted = [name for tap in self._taps for name in tap.outputs] + list(self._mean_outputs.values())
        names = [name for name in dict.fromkeys((*outputs, *wanted, *self._channels)) if name not in feed]
        try:
            values = self._session.run(names, feed)[: len(names)]  # no names mean all outputs to ONNX Runtime
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot run sample {index}: {_first_line(error)}") from error
        return dict(feed) | dict(zip(names, values, strict=True)), shared_rows(feed)

    def _take(self, item: Item) -> None:
        self._follower.give(item)
        self._seen += item[1]

    def _open(self, feed: Mapping[str, Array], threads: int) -> ort.InferenceSession:
        shapes = {name: value.shape for name, value in feed.items()}
        inner = {name: s.counts is not None for name, s in self._statistics.items() if name not in feed}

        def tap(proto: onnx.ModelProto) -> None:
            self._taps = add_taps(proto, inner, shapes)
            self._mean_outputs = add_mean_taps(proto, self._means_wanted, shapes, self._taps)
            add_outputs(proto, self._channels)

        with ExitStack() as stack:
            source = _prepared(self._model, stack, tap)
            bounded = _weight_bytes(self._model) > LARGEST_REARRANGED
            session = _load(source, threads, bounded=bounded)
        self._taps += [Tap(name, whole=name) for name in self._statistics if name in feed]
        return session

    def _record(self, values: Mapping[str, Array], rows: int) -> None:
        self._digest.update(values, rows)
        for tap in self._taps:
            if tap.tensor in self._refused:
                continue
            try:
                check_type(tap.tensor, values[tap.outputs[0]])
                tap.record(self._statistics[tap.tensor], values, rows)
            except CalibrationError as error:
                self._refuse(tap.tensor, error)
        for tensor, name in self._mean_outputs.items():
            self._means[tensor].update(values[name].reshape(len(values[name]), -1))
        for name, extremes in self._channels.items():
            check_type(name, values[name])
            extremes.update(values[name], rows)

    def _refuse(self, tensor: str, error: CalibrationError) -> None:
        if not self._lenient:
            raise error
        self._refused[tensor] = error.message


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
    source: bytes | str | os.PathLike[str],
    threads: int | None,
    *,
    optimize: bool = True,
    bounded: bool = False,
    disabled: Sequence[str] = (),
) -> ort.InferenceSession:
    """Load a model; `bounded` spares the memory of rearranged weights, for some speed; `disabled` are optimizers."""
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
        return ort.InferenceSession(
            loaded, options, providers=["CPUExecutionProvider"], enable_fallback=0, disabled_optimizers=list(disabled)
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
