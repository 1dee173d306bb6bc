"""What calibration is to see of a model, and who looks: one pass over the samples here, unless another does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quantonnx.algorithms.bias_correction import means_needed
from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.keeping import Feed, KeptSamples
from quantonnx.calibration.methods import Method
from quantonnx.calibration.session import Collector
from quantonnx.model import Model
from quantonnx.preparation import Feeding
from quantonnx.quantized import QuantizedModel


@dataclass(frozen=True)
class Watch:
    """What is to be seen of a float model: tensors, which of them with a histogram, and channel means with whether they
    have spatial axes; with `keep` some of the samples too, with `lenient` what is wrong with a tensor is remembered."""

    model: Model
    tensors: frozenset[str]
    histogram: frozenset[str] = frozenset()
    means: Mapping[str, bool] = field(default_factory=dict)
    keep: bool = False
    lenient: bool = False


@dataclass(frozen=True)
class Observed:
    """What was seen, and the samples that were kept, spread evenly."""

    statistics: Statistics
    feeds: Sequence[Feed] = ()


Observer = Callable[[Watch, Feeding], Observed]


def watch_of(quantized: QuantizedModel) -> Watch:
    """Returns what calibration has to see of a placed model."""
    sites = [site for site in quantized.activation_sites if site.ranging.needs_samples]
    return Watch(
        quantized.model,
        frozenset(site.source for site in sites),
        frozenset(site.source for site in sites if site.ranging.needs_histogram),
        means_needed(quantized.model, quantized.sites) if quantized.config.bias_correction else {},
        keep=any(site.ranging.method.kind is Method.AUTO for site in sites),
    )


def observe(watch: Watch, feeding: Feeding) -> Observed:
    """Runs the float model over the samples, or lets the forward loop do it; see Collector for errors."""
    kept = KeptSamples() if watch.keep else None
    with collector_of(watch, feeding, kept) as collector:
        if feeding.forward_loop is not None:
            feeding.forward_loop(collector.run)
        else:
            collector.run_all(feeding.samples, feeding.progress)
        return Observed(collector.collected(), kept.spread() if kept else ())


def collector_of(watch: Watch, feeding: Feeding, kept: KeptSamples | None = None) -> Collector:
    """Returns what sees all that is to be seen."""
    return Collector(
        watch.model,
        sorted(watch.tensors),
        histogram=watch.histogram,
        means=watch.means,
        threads=feeding.threads,
        lenient=watch.lenient,
        keeping=kept,
        memory_limit=feeding.memory_limit,
    )
