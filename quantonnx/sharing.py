"""Calibrate once for several targets: what each has to see of the same fused model is seen in one pass, where that
changes no number.

ONNX Runtime fuses operators only where nothing else reads the value between them, so seeing more can change what it
computes in the last bit. A few samples, seen both ways, show whether it does; where it does, a target has a pass of its
own, and its file is what it would be without the others. That costs sessions more, so few samples are not shared.
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

PROBED, FEWEST = 2, 128
"""Feeds that are seen both ways, and the number of samples below which one pass for all costs more than it saves."""


class SharedObservation:
    """An observer that sees for all of `watches` at once, the first time that one of them is asked for.

    All must be asked for with the same samples. `passes` is how often the samples were run.
    """

    def __init__(self, watches: Iterable[Watch], observer: Observer = observe) -> None:
        self._observer = observer
        self._unions: dict[str, Watch] = {}
        self._probes: dict[str, Statistics] = {}
        self._seen: dict[str, Observed] = {}
        self.passes = 0
        for watch in watches:
            key = watch.model.fingerprint()
            self._unions[key] = _joined(self._unions[key], watch) if key in self._unions else watch

    def __call__(self, watch: Watch, feeding: Feeding) -> Observed:
        """Returns what `watch` is about, from the pass for all where it is the same there."""
        key = watch.model.fingerprint()
        union = self._unions.get(key)
        if union is None or not _covers(union, watch) or not worth_it(feeding.samples):
            return self._alone(watch, feeding)
        if not _same(union, watch) and (_parts_a_fusion(union, watch) or not self._equal(key, watch, feeding)):
            return self._alone(watch, feeding)
        if key not in self._seen:
            self.passes += 1
            self._seen[key] = self._observer(replace(union, lenient=True), feeding)
        seen = self._seen[key]
        if not seen.statistics.refused.keys().isdisjoint(watch.tensors):
            return self._alone(watch, feeding)  # which says what is wrong
        return Observed(_part(seen.statistics, watch), seen.feeds if watch.keep else ())

    def _equal(self, key: str, watch: Watch, feeding: Feeding) -> bool:
        """Whether a few samples give the same numbers with all that the others see and without."""
        few = replace(feeding, samples=_first(feeding), progress=None)
        if key not in self._probes:
            self._probes[key] = observe(replace(self._unions[key], lenient=True), few).statistics
        together = self._probes[key]
        if not together.refused.keys().isdisjoint(watch.tensors):
            return False
        return observe(replace(watch, lenient=True), few).statistics.same_numbers(_part(together, watch))

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


def worth_it(samples: object) -> bool:
    """Returns whether there are so many samples that one pass for all may save something."""
    if not isinstance(samples, (Samples, Replayed)):
        return False
    count = length_of(samples)
    return count is None or count >= FEWEST


def _parts_a_fusion(union: Watch, watch: Watch) -> bool:
    """Whether the others read the result of a Conv before an Add, which ONNX Runtime otherwise computes as one: with
    another rounding, so there is no need to try."""
    others = union.tensors - watch.tensors
    added = (value for node in watch.model.graph.nodes if node.op == "Add" for value in node.inputs)
    return any(value.name in others and value.inputs and value.inputs[0].op == "Conv" for value in added)


def _first(feeding: Feeding) -> list[Feed]:
    samples = feeding.samples
    return samples.first[:PROBED] if isinstance(samples, Replayed) else list(islice(samples, PROBED))


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
