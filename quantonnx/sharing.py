"""Calibrate once for several targets: what each has to see of the same fused model is seen in one pass, where that
changes no number.

ONNX Runtime fuses operators only where nothing else reads the value between them, so seeing more can change what it
computes in the last bit. A few samples, seen both ways, show whether it does; where it does, a target has a pass of its
own, and its file is what it would be without the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from itertools import islice

from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import length_of
from quantonnx.calibration.keeping import Feed, Replayed
from quantonnx.calibration.samples import Samples
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.observing import Observed, Observer, Watch, observe
from quantonnx.preparation import Feeding

PROBED, FEWEST = 2, 8
"""Feeds that are seen both ways, and the number of samples below which one pass for all saves nothing."""


class SharedObservation:
    """An observer that sees for all of `watches` at once, the first time that one of them is asked for.

    All must be asked for with the same samples. `passes` is how often the samples were run.
    """

    def __init__(self, watches: Iterable[Watch], observer: Observer = observe) -> None:
        self._observer = observer
        self._unions: dict[str, Watch] = {}
        self._seen: dict[str, Observed] = {}
        self.passes = 0
        for watch in watches:
            key = watch.model.fingerprint()
            self._unions[key] = _joined(self._unions[key], watch) if key in self._unions else watch

    def __call__(self, watch: Watch, feeding: Feeding) -> Observed:
        """Returns what `watch` is about, from the pass for all where it is the same there."""
        key = watch.model.fingerprint()
        union = self._unions.get(key)
        if union is None or not _covers(union, watch) or not _worth_it(feeding):
            return self._alone(watch, feeding)
        if not _same(union, watch) and not _equal_on(_first(feeding), union, watch, feeding):
            return self._alone(watch, feeding)
        if key not in self._seen:
            self.passes += 1
            self._seen[key] = self._observer(replace(union, lenient=True), feeding)
        seen = self._seen[key]
        if not seen.statistics.refused.keys().isdisjoint(watch.tensors):
            return self._alone(watch, feeding)  # which says what is wrong
        return Observed(_part(seen.statistics, watch), seen.feeds if watch.keep else ())

    def _alone(self, watch: Watch, feeding: Feeding) -> Observed:
        self.passes += 1
        return self._observer(watch, feeding)


def _joined(one: Watch, other: Watch) -> Watch:
    return Watch(
        one.model,
        one.tensors | other.tensors,
        one.histogram | other.histogram,
        {**one.means, **other.means},
        keep=one.keep or other.keep,
    )


def _covers(union: Watch, watch: Watch) -> bool:
    return _same(_joined(union, watch), union)


def _same(one: Watch, other: Watch) -> bool:
    return (one.tensors, one.histogram, one.means) == (other.tensors, other.histogram, other.means)


def _worth_it(feeding: Feeding) -> bool:
    if not isinstance(feeding.samples, (Samples, Replayed)):
        return False
    count = length_of(feeding.samples)
    return count is None or count >= FEWEST


def _first(feeding: Feeding) -> list[Feed]:
    samples = feeding.samples
    return samples.first[:PROBED] if isinstance(samples, Replayed) else list(islice(samples, PROBED))


def _equal_on(feeds: list[Feed], union: Watch, watch: Watch, feeding: Feeding) -> bool:
    """Whether a few samples give the same numbers with all that the others see and without."""
    few = replace(feeding, samples=feeds, progress=None)
    alone, together = (observe(replace(each, lenient=True), few).statistics for each in (watch, union))
    if not together.refused.keys().isdisjoint(watch.tensors):
        return False
    return alone.same_numbers(_part(together, watch))


def _part(statistics: Statistics, watch: Watch) -> Statistics:
    """What a watch alone would have seen."""
    tensors = {
        name: _bare(statistics.tensors[name], histogram=name in watch.histogram) for name in sorted(watch.tensors)
    }
    means = {name: statistics.means[name] for name in watch.means if name in statistics.means}
    return Statistics(statistics.model, tensors, means, data=statistics.data)


def _bare(stats: TensorStatistics, *, histogram: bool) -> TensorStatistics:
    if histogram or stats.counts is None:
        return stats
    bare = copy(stats)
    plain = TensorStatistics(stats.name, histogram=False)
    bare.counts, bare.exponent = plain.counts, plain.exponent
    return bare
