"""The model between placement and file: where the pairs stand, first without and then with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from quantonnx.algorithms.bias_correction import correct_biases, means_needed
from quantonnx.algorithms.layerwise import LayerChange
from quantonnx.algorithms.shift_limits import Limited, shift_limits
from quantonnx.algorithms.weight_steps import WeightStep
from quantonnx.assembly import assembled
from quantonnx.calibration.collected import DataSource, Statistics
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.collecting import uncollected
from quantonnx.config import QuantConfig
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import CalibrationError, PlanError
from quantonnx.formats import Parameters
from quantonnx.insertion import refuse_quantized
from quantonnx.model import Model
from quantonnx.placement import Placement, place
from quantonnx.preparation import Feeding, ForwardLoop, Progress, prepared
from quantonnx.provenance import describe
from quantonnx.range_conflicts import range_conflicts
from quantonnx.rewriting import Matches
from quantonnx.site_numbers import SiteNumbers
from quantonnx.sites import Site
from quantonnx.weight_moving import with_moved_weights


@dataclass(frozen=True)
class QuantizedModel:
    """A fused float model, its sites, and (once calibrated) scale and zero point at every site.

    `reference` is the model with the float results, where `model` has weights or biases that make up for rounding;
    `weight_changes` tell what algorithms did to weights.
    """

    model: Model
    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]
    matches: Matches
    config: QuantConfig
    parameters: Mapping[Site, Parameters] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    data: tuple[DataSource, ...] = ()
    reference: Model | None = None
    weight_changes: tuple[LayerChange, ...] = ()

    @property
    def calibrated(self) -> bool:
        """True once every site has its numbers."""
        return self.parameters is not None

    @property
    def activation_sites(self) -> tuple[Site, ...]:
        """The sites whose numbers come from calibration: one pair each."""
        return tuple(site for site in self.sites if site.on_activation)

    @property
    def weight_sites(self) -> tuple[Site, ...]:
        """The sites on weights."""
        return tuple(site for site in self.sites if site.is_weight)

    @property
    def needs_samples(self) -> bool:
        """True where samples have to show the range of an activation, or what a step of the recipe goes by."""
        if any(step.needs_samples for step in self.config.steps):
            return True
        return any(site.on_activation and site.ranging.needs_samples for site in self.sites)

    @property
    def faster_in_float(self) -> bool:
        """True where no pair stands because the target's cost model expects every operator to be slower in integers."""
        return not self.sites and any(decision.decider is Decider.COST for decision in self.decisions)

    def refuse_nothing(self, name: str) -> None:
        """Raises PlanError where no pair stands, unless that is what makes the model fast."""
        if self.sites or self.faster_in_float:
            return
        first = next((f" ({decision.name}: {decision.reason})" for decision in self.decisions), "")
        raise PlanError(
            f"no pair was placed: nothing in {name} can be quantized for {self.matches.target.name}{first}",
            "see `quantonnx explain`, or try another target",
        )

    def to_model(self) -> Model:
        """Returns the Q/DQ model. Raises CalibrationError before calibration."""
        if self.parameters is None:
            raise CalibrationError("the model is not calibrated", "call quantonnx.calibrate(quantized, samples) first")
        float_weights, contrib = self.config.weight_storage == "float", self.config.contrib_ops
        model = assembled(self.model, self.sites, self.parameters, float_weights=float_weights, contrib=contrib)
        model.metadata |= describe(
            self.model.digest,
            target=self.matches.target.name,
            config=self.config,
            sites=self.sites,
            data=self.data,
        )
        return model

    def to_onnx(self) -> onnx.ModelProto:
        """Returns the Q/DQ model as a ModelProto."""
        return self.to_model().to_proto()

    def save(self, path: str | Path, *, force: bool = False, external_data: bool = False) -> None:
        """Writes the Q/DQ model atomically; weights over 2 GB go to `path`.data."""
        self.to_model().save(path, force=force, external_data=external_data)


@uncollected()
def insert_qdq(model: Model, matches: Matches, config: QuantConfig | None = None) -> QuantizedModel:
    """Returns where Q/DQ pairs will stand in a fused model: exactly at the points that the applied matches declare."""
    config = config or QuantConfig()
    refuse_quantized(model, "the model")
    placement: Placement = place(model, matches, config)
    return QuantizedModel(model, placement.sites, placement.decisions, matches, config)


def calibrate(
    quantized: QuantizedModel,
    samples: Any = None,
    *,
    forward_loop: ForwardLoop | None = None,
    statistics: Statistics | str | Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    weight_steps: Sequence[WeightStep] = (),
) -> QuantizedModel:
    """Returns the model with scale and zero point at every site.

    `samples` is what `open_samples` takes: a path, an iterable of feeds, a CalibrationDataReader. `forward_loop`, in
    its place, is called with a function that runs the float model on one feed and returns its outputs; `statistics`
    are what `collect_statistics` saw before, or the file that holds them, and nothing is run. `weight_steps` choose the
    codes of weights by what samples show, one after the other; they read the samples once more.
    Raises CalibrationError for a site that saw no data, NaN or infinity, or that the statistics do not have, and
    DataError for samples that do not fit. Where every number is fixed or that of a weight, none of them is needed.
    """
    if weight_steps and samples is None:
        raise PlanError("steps that move weights read the samples again", "give samples")
    given = sum(source is not None for source in (samples, forward_loop, statistics))
    if given != 1 and not (given == 0 and not quantized.needs_samples):
        raise PlanError("calibrate() needs samples, a forward loop or statistics", "give exactly one of them")
    if quantized.faster_in_float:
        return replace(quantized, parameters={})
    if not given:
        return with_statistics(_prepared(quantized, Feeding()), {})
    if quantized.config.steps:
        if statistics is not None:
            changing = quantized.config.steps[0].name
            raise PlanError(f"{changing} changes activations, which statistics know as they were", "give samples")
        quantized = _prepared(quantized, Feeding(samples, forward_loop, limit, threads, progress))
    if statistics is not None:
        known = statistics if isinstance(statistics, Statistics) else Statistics.load(statistics)
        return _calibrated(quantized, known)
    sites = [site for site in quantized.activation_sites if site.ranging.needs_samples]
    with Collector(
        quantized.model,
        sorted({site.source for site in sites}),
        histogram={site.source for site in sites if site.ranging.needs_histogram},
        means=means_needed(quantized.model, quantized.sites) if quantized.config.bias_correction else {},
        threads=threads,
    ) as collector:
        if forward_loop is not None:
            forward_loop(collector.run)
        else:
            stream = open_samples(samples, input_specs(quantized.model), limit=limit)
            collector.run_all(stream, progress)
        found = collector.collected()
    if not weight_steps:
        return _calibrated(quantized, found)
    return _moved(quantized, found, weight_steps, Feeding(samples, None, limit, threads, progress))


def _calibrated(quantized: QuantizedModel, statistics: Statistics) -> QuantizedModel:
    needed = [site.source for site in quantized.activation_sites if site.ranging.needs_samples]
    tensors = statistics.require(quantized.model.digest, needed)
    means = statistics.channel_means() if quantized.config.bias_correction else {}
    return replace(with_statistics(quantized, tensors, means), data=statistics.data)


def _moved(
    quantized: QuantizedModel, statistics: Statistics, steps: Sequence[WeightStep], feeding: Feeding
) -> QuantizedModel:
    plain = _calibrated(quantized, replace(statistics, means={}))
    assert plain.parameters is not None
    means = statistics.channel_means() if quantized.config.bias_correction else None
    model, parameters, changes = with_moved_weights(plain.model, plain.sites, plain.parameters, means, steps, feeding)
    return replace(plain, model=model, parameters=parameters, weight_changes=changes)


def _prepared(quantized: QuantizedModel, feeding: Feeding) -> QuantizedModel:
    placed = Placement(quantized.sites, quantized.decisions)
    model, placement = prepared(quantized.model, placed, quantized.matches, quantized.config, feeding)
    return replace(quantized, model=model, sites=placement.sites, decisions=placement.decisions)


def with_statistics(
    quantized: QuantizedModel,
    statistics: Mapping[str, TensorStatistics],
    means: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
) -> QuantizedModel:
    """Returns the model calibrated from statistics that were collected before; no inference.

    `means` are the channel means by which biases are corrected; where they are absent, biases stay.
    """
    quantized, numbers = _activations(quantized, statistics)
    for site in quantized.sites:
        if not site.on_activation and site.derived_from is None:
            numbers.constant(site)
    limited = _limited(quantized, numbers.parameters)
    numbers.parameters.update(limited.parameters)
    derived = [site for site in quantized.sites if site.derived_from is not None]
    for site in derived:
        numbers.widen_for_bias(site)
    for site in derived:
        numbers.bias(site)
    model = correct_biases(quantized.model, quantized.weight_sites, numbers.parameters, means)
    unmet = tuple(Decision("shift_limits", told, Decider.SHIFTS) for told in limited.unmet)
    return replace(
        quantized,
        model=model,
        decisions=(*quantized.decisions, *unmet),
        parameters=numbers.parameters,
        ranges=numbers.ranges,
        reference=quantized.reference or quantized.model,
    )


def _limited(quantized: QuantizedModel, parameters: Mapping[Site, Parameters]) -> Limited:
    if not quantized.config.shift_limits:
        return Limited(parameters, (), ())
    return shift_limits(quantized.model, quantized.sites, parameters)


def _activations(
    quantized: QuantizedModel, statistics: Mapping[str, TensorStatistics]
) -> tuple[QuantizedModel, SiteNumbers]:
    """Chooses the ranges of activations; where they show that branches do not fit together, places anew."""
    numbers = SiteNumbers(quantized.model, statistics)
    for site in quantized.activation_sites:
        if not site.ranging.dynamic:
            numbers.activation(site)
    found = list(quantized.matches.resolve(quantized.model))
    conflicts = range_conflicts(found, quantized.activation_sites, numbers.ranges)
    if not conflicts:
        return quantized, numbers
    outputs = {step.output for step in quantized.matches}
    known = {decision.name: decision for decision in quantized.decisions if decision.name in outputs}
    known |= {name: Decision(name, reason, Decider.RANGES) for name, reason in conflicts.items()}
    placement = place(quantized.model, quantized.matches, quantized.config, known)
    placed = replace(quantized, sites=placement.sites, decisions=placement.decisions)
    return _activations(placed, statistics)
