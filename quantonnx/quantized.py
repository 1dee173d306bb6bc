"""The model between placement and file: where the pairs stand, first without and then with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from quantonnx.algorithms.bias_correction import correct_biases, means_needed
from quantonnx.calibration.ranges import RangeMethod, choose_range
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.collecting import uncollected
from quantonnx.config import FixedRange, QuantConfig
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import CalibrationError, ConfigError, PlanError
from quantonnx.formats import Parameters
from quantonnx.insertion import INT32_MAX, insert_pairs, needed_opset, refuse_quantized
from quantonnx.model import Model
from quantonnx.pattern import Role
from quantonnx.placement import Placement, place
from quantonnx.range_conflicts import range_conflicts
from quantonnx.rewriting import Matches
from quantonnx.sites import Site

ForwardLoop = Callable[[Callable[[Mapping[str, Any]], list[Any]]], None]
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class QuantizedModel:
    """A fused float model, its sites, and (once calibrated) scale and zero point at every site."""

    model: Model
    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]
    matches: Matches
    config: QuantConfig
    parameters: Mapping[Site, Parameters] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

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
        model = self.model.copy()
        opset = needed_opset(self.sites)
        if model.opset < opset:
            model = model.with_opset(opset)
        insert_pairs(model, self.sites, self.parameters, float_weights=self.config.weight_storage == "float")
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
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Returns the model with scale and zero point at every site.

    `samples` is what `open_samples` takes: a path, an iterable of feeds, a CalibrationDataReader. `forward_loop`, in
    its place, is called with a function that runs the float model on one feed and returns its outputs.
    Raises CalibrationError for a site that saw no data, NaN or infinity, and DataError for samples that do not fit.
    """
    if (samples is None) == (forward_loop is None):
        raise PlanError("calibrate() needs samples or a forward loop", "give exactly one of them")
    if quantized.faster_in_float:
        return replace(quantized, parameters={})
    methods = _methods(quantized)
    with Collector(
        quantized.model,
        sorted(methods),
        histogram=[name for name, method in methods.items() if method.needs_histogram],
        means=means_needed(quantized.model, quantized.sites) if quantized.config.bias_correction else {},
        threads=threads,
    ) as collector:
        if forward_loop is not None:
            forward_loop(collector.run)
        else:
            stream = open_samples(samples, input_specs(quantized.model), limit=limit)
            collector.run_all(stream, progress)
        statistics, means = collector.finish(), collector.channel_means()
    return with_statistics(quantized, statistics, means)


def with_statistics(
    quantized: QuantizedModel,
    statistics: Mapping[str, TensorStatistics],
    means: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
) -> QuantizedModel:
    """Returns the model calibrated from statistics that were collected before; no inference.

    `means` are the channel means by which biases are corrected; where they are absent, biases stay.
    """
    quantized, numbers = _activations(quantized, statistics)
    for site in quantized.weight_sites:
        numbers.weight(site)
    biases = [site for site in quantized.sites if site.roles == (Role.BIAS,)]
    for site in biases:
        numbers.widen_for_bias(site)
    for site in biases:
        numbers.bias(site)
    model = correct_biases(quantized.model, quantized.weight_sites, numbers.parameters, means)
    return replace(quantized, model=model, parameters=numbers.parameters, ranges=numbers.ranges)


def _activations(
    quantized: QuantizedModel, statistics: Mapping[str, TensorStatistics]
) -> tuple[QuantizedModel, _Numbers]:
    """Chooses the ranges of activations; where they show that branches do not fit together, places anew."""
    numbers = _Numbers(quantized, statistics)
    for site in quantized.activation_sites:
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


class _Numbers:
    """Scale and zero point of every site: activations from statistics, weights from values, biases from both."""

    def __init__(self, quantized: QuantizedModel, statistics: Mapping[str, TensorStatistics]) -> None:
        self.model = quantized.model
        self.fixed = quantized.config.fixed
        self.statistics = statistics
        self.methods = _methods(quantized)
        self.tensors = quantized.model.tensors()
        self.parameters: dict[Site, Parameters] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self._activations: dict[str, Parameters] = {}
        self._weights: dict[tuple[str, int | None], Site] = {}

    def activation(self, site: Site) -> None:
        """Chooses a range, or takes the one that the user fixed."""
        fixed = self.fixed.get(site.source)
        numbers = (
            _fixed_parameters(site, fixed) if fixed else site.format.parameters(*self._range(site), site.float_type)
        )
        self.parameters[site] = numbers
        self._activations.setdefault(site.tensor, numbers)

    def weight(self, site: Site) -> None:
        """Takes the range of the weight itself, per channel where the format says so."""
        low, high = site.format.extremes(self._values(site))
        self.parameters[site] = site.format.parameters(low, high, site.float_type)
        self._weights[site.tensor, site.format.axis] = site

    def widen_for_bias(self, site: Site) -> None:
        """Raises the scale of weight channels so far that the bias fits into int32; only near-dead ones need it."""
        activation, weight = self._origins(site)
        numbers = self.parameters[weight]
        least = np.abs(self._values(site).astype(np.float64)) / (float(activation.scale) * (INT32_MAX // 2))
        needed = least if numbers.scale.ndim else least.max(initial=0.0)
        if np.any(needed > numbers.scale):
            scale = np.maximum(numbers.scale, needed).astype(np.float32)
            self.parameters[weight] = Parameters(scale, numbers.zero_point)

    def bias(self, site: Site) -> None:
        """Gives the bias the product of the two scales, zero point 0."""
        activation, weight = self._origins(site)
        size = self.tensors[site.tensor].shape[0]
        scale = np.asarray(activation.scale * self.parameters[weight].scale, np.float32)
        self.parameters[site] = Parameters(np.broadcast_to(scale, (size,)).copy(), np.zeros(size, np.int32))

    def _origins(self, site: Site) -> tuple[Parameters, Site]:
        activation, weight, axis = site.derived_from or ("", "", None)
        return self._activations[activation], self._weights[weight, axis]

    def _range(self, site: Site) -> tuple[float, float]:
        source = site.source
        if source not in self.statistics:
            raise CalibrationError(f"{source!r} saw no data", "check that the samples reach it")
        if source not in self.ranges:
            self.ranges[source] = choose_range(self.statistics[source], self.methods[source], site.format)
        return self.ranges[source]

    def _values(self, site: Site) -> np.ndarray[Any, Any]:
        values = self.model.array(self.tensors[site.tensor])
        if not np.isfinite(values).all():
            raise CalibrationError(f"{site.tensor!r} holds NaN or infinity", "mend the model, or exclude its operator")
        return values


def _fixed_parameters(site: Site, fixed: FixedRange) -> Parameters:
    low, high = site.format.qmin, site.format.qmax
    if not low <= fixed.zero_point <= high:
        raise ConfigError(f"fixed: {site.tensor!r} has zero point {fixed.zero_point}", f"its codes are {low} to {high}")
    if site.format.symmetric and site.format.signed and fixed.zero_point:
        raise ConfigError(f"fixed: {site.tensor!r} has zero point {fixed.zero_point}, its format is symmetric", "use 0")
    with np.errstate(over="ignore"):
        scale = np.asarray(fixed.scale).astype(site.float_type)
    if not 0 < scale < np.inf:
        raise ConfigError(f"fixed: {site.tensor!r} has scale {fixed.scale}, which {site.float_type} cannot hold")
    return Parameters(scale, np.asarray(fixed.zero_point, site.format.dtype))


def _methods(quantized: QuantizedModel) -> dict[str, RangeMethod]:
    method = quantized.config.activation.range_method(quantized.matches.target.method)
    fixed = quantized.config.fixed
    return {site.source: method for site in quantized.activation_sites if site.source not in fixed}
