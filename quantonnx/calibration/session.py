"""Run the float model in ONNX Runtime and gather statistics of its inner tensors, at nearly no cost beside it.

Samples run side by side, a core each, and statistics follow in a thread of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from quantonnx.calibration.collected import DataSource, Statistics
from quantonnx.calibration.concurrency import Follower, Item, cores, in_order
from quantonnx.calibration.digest import SampleDigest
from quantonnx.calibration.feeds import ForwardLoop, Progress, input_specs, length_of, named
from quantonnx.calibration.keeping import KeptSamples
from quantonnx.calibration.loading import first_line, is_large, load_session, prepared, samples_at_once
from quantonnx.calibration.parts import Watched, in_one_piece, parts_of
from quantonnx.calibration.samples import open_samples
from quantonnx.calibration.sources import Part, shared_rows
from quantonnx.calibration.staging import Stages, Stream
from quantonnx.calibration.statistics import ChannelExtremes, ChannelMeans, TensorStatistics
from quantonnx.calibration.taps import Tap, add_mean_taps, add_outputs, add_taps, check_known, check_type
from quantonnx.errors import CalibrationError, DataError
from quantonnx.memory import require
from quantonnx.model import Model

Array = NDArray[Any]

_NO_DATA, _REACH_IT = "saw no data, expected at least one sample", "give samples that reach it"


class Collector:
    """The float model with its inner tensors watched; a context manager.

    `histogram` tells for which tensors one is kept: all, none, or those named. `means` names tensors whose channel
    means are wanted, with whether they have spatial axes; `channels` those whose extremes in each channel of the last
    axis are. Feeds may differ in shape; where every input has the same first dimension, it counts the samples of a
    feed, and statistics do not depend on how samples are grouped. The model is loaded at the first feed. Raises
    CalibrationError for a tensor that the model does not compute, that holds NaN or infinity, or that saw no data; with
    `lenient`, the last two are remembered. `keeping` is offered every feed.
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
        keeping: KeptSamples | None = None,
        memory_limit: int | None = None,
    ) -> None:
        kept = set(tensors if histogram is True else histogram or ())
        self._model = model
        self._threads = threads
        self._statistics = {name: TensorStatistics(name, histogram=name in kept) for name in tensors}
        self._outputs = [value.name for value in model.graph.outputs]
        self._inputs = input_specs(model)
        self._digest = SampleDigest([spec.name for spec in self._inputs])
        self._lenient = lenient
        self._keeping = keeping
        self._limit = memory_limit
        self._refused: dict[str, str] = {}
        self._means_wanted = dict(means)
        self._means = {name: ChannelMeans() for name in means}
        self._mean_outputs: dict[str, str] = {}
        self._channels = {name: ChannelExtremes(name) for name in channels}
        self._taps: list[Tap] = []
        self._session: ort.InferenceSession | None = None
        self._stages: Stages | None = None
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
        if self._limit is not None and self._session is None:
            require(in_one_piece(self._model), self._limit, "a forward loop, which runs the whole model,")
        where = f"sample {self._seen}"
        checked, _ = Part(named(feed, self._inputs, where), where).feed(self._inputs)
        for opened in self._opened([checked], at_once=1):
            item = self._infer(opened, self._outputs)
            self._take(item)
        return [item[0][name] for name in self._outputs]

    def open_for(self, feed: Mapping[str, Array], begun: int = 0) -> None:
        """Load the model for feeds shaped as this one, the first of a stream of which `begun` samples are passed over.

        What is seen of a part of a stream is then the same as where all of it is run here.
        """
        self._begun = self._seen = begun
        if self._limit is not None:
            self._stages = self._parts(feed)
        if self._stages is None:
            self._session = self._open(feed, max(cores(self._threads) // self._at_once(), 1))

    def _at_once(self) -> int:
        return samples_at_once(self._model, self._threads)

    def run_all(self, samples: Iterable[Mapping[str, Array]], progress: Progress | None = None) -> None:
        """Run every feed; `progress` is called with the number of samples done and, when known, of all."""
        total = length_of(samples) if progress else None
        if self._limit is not None and self._session is None:
            feeds = iter(samples)
            first = list(islice(feeds, 1))
            samples = chain(first, feeds)
            parts = self._stages or (self._parts(first[0]) if first else None)
            if parts is not None:
                self._run_parts(parts, samples, progress)
                return
        at_once = self._at_once()
        for item in in_order(self._infer, self._opened(samples, at_once), at_once):
            self._take(item)
            if progress:
                progress(self._seen, total)

    def observe(
        self,
        samples: Any = None,
        forward_loop: ForwardLoop | None = None,
        *,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run the forward loop, or the first `limit` of `samples`; both are those of `calibrate`."""
        if forward_loop is not None:
            forward_loop(self.run)
        else:
            self.run_all(open_samples(samples, self._inputs, limit=limit), progress)

    def finish(self) -> dict[str, TensorStatistics]:
        """Return the statistics by tensor, when all that was run is counted."""
        self._follower.stop()
        seen = {name: stats.samples for name, stats in self._statistics.items()}
        seen |= {name: extremes.samples for name, extremes in self._channels.items()}
        for name, samples in seen.items():
            if samples == 0 and name not in self._refused:
                self._refuse(name, CalibrationError(f"tensor {name!r} {_NO_DATA}", _REACH_IT))
        return {name: stats for name, stats in self._statistics.items() if name not in self._refused}

    def collected(self, name: str = "") -> Statistics:
        """Return all that was seen, to be saved; `name` is what the data is called."""
        tensors = self.finish()
        return Statistics(
            self._model.digest,
            tensors,
            means={tensor: means for tensor, means in self._means.items() if means.samples},
            channels={tensor: found for tensor, found in self._channels.items() if tensor not in self._refused},
            refused=dict(self._refused),
            data=(DataSource(name, self._digest.samples, self._digest.hexdigest),),
        )

    def channel_means(self) -> dict[str, Array]:
        """Return E[x] of each channel, float64 [channels], of the tensors in `means`; after `finish`."""
        return {name: means.mean for name, means in self._means.items()}

    def channel_extremes(self) -> dict[str, ChannelExtremes]:
        """Return the extremes of each channel of the tensors in `channels`; after `finish`."""
        return self._channels

    def _opened(
        self, samples: Iterable[Mapping[str, Array]], at_once: int
    ) -> Iterator[tuple[int, Mapping[str, Array]]]:
        """Number the feeds; the model is loaded for the first, whose shapes say how tensors are tapped."""
        for feed in samples:
            if self._session is None:
                self._session = self._open(feed, max(cores(self._threads) // at_once, 1))
            if self._keeping is not None:
                self._keeping.offer(feed)
            yield self._begun, feed
            self._begun += shared_rows(feed)

    def _run_parts(self, parts: Stages, samples: Iterable[Mapping[str, Array]], progress: Progress | None) -> None:
        """Run part after part, each for all samples."""
        rows: list[int] = []
        done = 0

        def begun() -> Iterator[Mapping[str, Array]]:
            for feed in samples:
                if self._keeping is not None:
                    self._keeping.offer(feed)
                rows.append(shared_rows(feed))
                self._take((feed, rows[-1]))
                yield feed

        def watch(sample: int, values: Mapping[str, Array]) -> None:
            nonlocal done
            self._follower.give((values, rows[sample]))
            done += rows[sample]
            if progress:
                progress(done, len(parts) * sum(rows))

        with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
            bounded = is_large(self._model)
            stream = Stream(parts, Path(folder) / "values", begun(), self._threads, bounded=bounded)
            for part in parts:
                stream.advance(part, {}, watch)

    def _parts(self, feed: Mapping[str, Array]) -> Stages | None:
        """Return the parts that the model has to run in, if the memory limit asks for any."""
        assert self._limit is not None
        shapes = {name: value.shape for name, value in feed.items()}
        return parts_of(Watched(self._model, partial(self._tap, feed), shapes, self._names), self._limit)

    def _tap(self, feed: Mapping[str, Array], proto: onnx.ModelProto) -> None:
        """Add what is to be seen to the outputs, given the shapes of a feed."""
        shapes = {name: value.shape for name, value in feed.items()}
        inner = {name: s.counts is not None for name, s in self._statistics.items() if name not in feed}
        self._taps = add_taps(proto, inner, shapes)
        self._mean_outputs = add_mean_taps(proto, self._means_wanted, shapes, self._taps)
        add_outputs(proto, self._channels)
        self._taps += [Tap(name, whole=name) for name in self._statistics if name in feed]

    def _names(self) -> list[str]:
        taps = (name for tap in self._taps for name in tap.outputs)
        return list(dict.fromkeys((*taps, *self._mean_outputs.values(), *self._channels)))

    def _infer(self, sample: tuple[int, Mapping[str, Array]], outputs: Sequence[str] = ()) -> Item:
        index, feed = sample
        assert self._session is not None
        wanted = [name for tap in self._taps for name in tap.outputs] + list(self._mean_outputs.values())
        names = [name for name in dict.fromkeys((*outputs, *wanted, *self._channels)) if name not in feed]
        try:
            values = self._session.run(names, feed)[: len(names)]  # no names mean all outputs to ONNX Runtime
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot run sample {index}: {first_line(error)}") from error
        return dict(feed) | dict(zip(names, values, strict=True)), shared_rows(feed)

    def _take(self, item: Item) -> None:
        self._follower.give(item)
        self._seen += item[1]

    def _open(self, feed: Mapping[str, Array], threads: int) -> ort.InferenceSession:
        with ExitStack() as stack:
            source = prepared(self._model, stack, partial(self._tap, feed))
            return load_session(source, threads, bounded=is_large(self._model))

    def _record(self, values: Mapping[str, Array], rows: int) -> None:
        if all(spec.name in values for spec in self._inputs):
            self._digest.update(values, rows)
        for tap in self._taps:
            if tap.outputs[0] in values:
                with self._refusing(tap.tensor):
                    check_type(tap.tensor, values[tap.outputs[0]])
                    tap.record(self._statistics[tap.tensor], values, rows)
        for tensor, name in self._mean_outputs.items():
            if name in values:
                self._means[tensor].update(values[name].reshape(len(values[name]), -1))
        for name, extremes in self._channels.items():
            if name in values:
                with self._refusing(name):
                    check_type(name, values[name])
                    extremes.update(values[name], rows)

    @contextmanager
    def _refusing(self, tensor: str) -> Iterator[None]:
        """Remembers what is wrong with a tensor where that is allowed, and that it is the first thing wrong."""
        try:
            yield
        except CalibrationError as error:
            if tensor not in self._refused:
                self._refuse(tensor, error)

    def _refuse(self, tensor: str, error: CalibrationError) -> None:
        if not self._lenient:
            raise error
        self._refused[tensor] = error.message
