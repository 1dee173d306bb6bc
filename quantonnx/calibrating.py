"""From a placed model to a calibrated one: the recipe, the samples or statistics, and the numbers of every pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from quantonnx.algorithms.bias_correction import correct_biases
from quantonnx.algorithms.input_scaling import SAMPLES
from quantonnx.algorithms.shift_limits import Limited, shift_limits
from quantonnx.algorithms.weight_steps import WeightStep, weight_steps
from quantonnx.calibration.body_feeds import body_samples
from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import ForwardLoop, Progress
from quantonnx.calibration.keeping import Feed, Replayed
from quantonnx.calibration.methods import RangeMethod
from quantonnx.calibration.parts import in_one_piece
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import PlanError, QuantonnxError
from quantonnx.formats import Parameters
from quantonnx.memory import FLOAT_BYTES, memory_limit_of, require
from quantonnx.method_choice import FALLBACK, choose_method
from quantonnx.observing import Observer, observe, watch_of
from quantonnx.placement import Placement, place
from quantonnx.preparation import Feeding, prepared, steps_of
from quantonnx.quantized import QuantizedModel
from quantonnx.range_conflicts import range_conflicts
from quantonnx.site_numbers import SiteNumbers
from quantonnx.sites import Site
from quantonnx.weight_moving import with_moved_weights

_BRIEF = frozenset({"equalize", "scale_inputs"})
"""Steps that need no more than the first samples: these are read once, even where the recipe has such a step."""

_WORK = 7
"""Times a weight as floats: its codes, its error, and copies on the way to them."""

_NO_SAMPLES = "it goes by samples of its own, and a forward loop runs once"
_NO_NEW_STATISTICS = "it goes by samples, and there are statistics of the model as it was"


def calibrate(
    quantized: QuantizedModel,
    samples: Any = None,
    *,
    forward_loop: ForwardLoop | None = None,
    statistics: Statistics | str | Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    observer: Observer = observe,
    memory_limit: int | str | None = None,
) -> QuantizedModel:
    """Returns the model with scale and zero point at every site.

    `samples` is what `open_samples` takes: a path, an iterable of feeds, a CalibrationDataReader. `forward_loop`, in
    its place, is called with a function that runs the float model on one feed and returns its outputs; `statistics`
    are what `collect_statistics` saw before, or the file that holds them, and nothing is run. `observer` runs the
    samples, by default one after the other here. `memory_limit` (bytes, or a text such as 4GB) is what this process may
    hold: what does not fit runs in parts, and ModelError says in one line what cannot.
    Raises CalibrationError for a site that saw no data, NaN or infinity, or that the statistics do not have, and
    DataError for samples that do not fit. Where every number is fixed or that of a weight, none of them is needed.
    """
    given = sum(source is not None for source in (samples, forward_loop, statistics))
    if given != 1 and not (given == 0 and not quantized.needs_samples):
        raise PlanError("calibrate() needs samples, a forward loop or statistics", "give exactly one of them")
    if quantized.faster_in_float:
        return replace(quantized, parameters={})
    allowed = memory_limit_of(memory_limit)
    _require_memory(quantized, allowed)
    if samples is not None:
        samples = open_samples(samples, input_specs(quantized.model), limit=limit)
    feeding = Feeding(samples, forward_loop, threads, progress, allowed)
    done = _calibrated_graph(quantized, feeding, statistics, observer)
    return _with_bodies(done, quantized, feeding) if quantized.bodies else done


def _calibrated_graph(
    quantized: QuantizedModel, feeding: Feeding, statistics: Statistics | str | Path | None, observer: Observer
) -> QuantizedModel:
    """Calibrates a graph without the bodies in it."""
    samples, forward_loop = feeding.samples, feeding.forward_loop
    if samples is None and forward_loop is None and statistics is None:
        return with_statistics(_prepared(quantized, feeding), {})
    steps = steps_of(quantized.config, quantized.matches.target)
    brief = not quantized.config.steps or all(step.name in _BRIEF for step in steps)
    if samples is not None and steps and brief:
        samples = Replayed(samples, SAMPLES)
        quantized = _prepared(quantized, replace(feeding, samples=samples.first, progress=None))
    elif quantized.config.steps:
        if forward_loop is not None and any(step.chooses_codes for step in quantized.config.steps):
            raise PlanError("steps that choose the codes of weights read the samples again", "give samples")
        if statistics is not None:
            name = quantized.config.steps[0].name
            raise PlanError(f"{name} changes the model, and the statistics are of the model as it was", "give samples")
        quantized = _prepared(quantized, feeding)
    else:
        quantized = _without_recipe(quantized, _NO_SAMPLES if statistics is None else _NO_NEW_STATISTICS)
    if statistics is not None:
        known = statistics if isinstance(statistics, Statistics) else Statistics.load(statistics)
        return _calibrated(quantized, known, (), Feeding())
    return _observed(quantized, replace(feeding, samples=samples), observer)


def _require_memory(quantized: QuantizedModel, limit: int | None) -> None:
    """Raises ModelError, before any work, where what cannot be done in parts does not fit into the limit."""
    values = quantized.model.tensors()
    sizes = {site.tensor: FLOAT_BYTES * prod(values[site.tensor].shape) for site in quantized.weight_sites}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    require(_WORK * sizes.get(largest, 0), limit, f"quantizing {largest!r}, the largest weight,")
    for step in quantized.config.steps:
        if step.chooses_codes:
            require(sum(sizes.values()), limit, f"{step.name}, which keeps all weights that it changed,")


def _with_bodies(done: QuantizedModel, placed: QuantizedModel, feeding: Feeding) -> QuantizedModel:
    """Calibrates each body on what it is fed while the float model runs; one that cannot be stays in float."""
    bodies: dict[str, QuantizedModel] = {}
    told: list[Decision] = []
    for name, body in placed.bodies.items():
        try:
            feeds = None
            if body.needs_samples:
                require(in_one_piece(placed.model), feeding.memory_limit, "running the model around it")
                feeds = body_samples(placed.model, name, body.model, feeding.samples, feeding.threads)
            bodies[name] = calibrate(body, feeds, threads=feeding.threads, memory_limit=feeding.memory_limit)
        except QuantonnxError as error:
            told.append(Decision(name, f"the body stays in float: {error.message}", Decider.BODY))
            bodies[name] = replace(body, sites=(), parameters={}, bodies={})
    return replace(done, bodies=bodies, decisions=(*done.decisions, *told))


def _without_recipe(quantized: QuantizedModel, reason: str) -> QuantizedModel:
    """Says which steps of the target's recipe are left out, and why."""
    left = (
        Decision(step.name, reason, Decider.STATISTICS) for step in steps_of(quantized.config, quantized.matches.target)
    )
    return replace(quantized, decisions=(*quantized.decisions, *left))


def _observed(quantized: QuantizedModel, feeding: Feeding, observer: Observer) -> QuantizedModel:
    """Calibrates by what the float model shows on samples."""
    seen = observer(watch_of(quantized), feeding)
    steps = weight_steps(quantized.config.steps)
    if steps:
        return _moved(quantized, seen.statistics, seen.feeds, steps, feeding)
    return _calibrated(quantized, seen.statistics, seen.feeds, feeding)


def _calibrated(
    quantized: QuantizedModel, statistics: Statistics, feeds: Sequence[Feed], feeding: Feeding
) -> QuantizedModel:
    """Calibrates from statistics; `feeds` decide which method finds ranges, where that is left open."""
    needed = [site.source for site in quantized.activation_sites if site.ranging.needs_samples]
    tensors = statistics.require(quantized.model.digest, needed)
    means = statistics.channel_means() if quantized.config.bias_correction else {}
    by_method = partial(with_statistics, quantized, tensors, means, constants={})
    if not feeds:
        return replace(by_method(FALLBACK), data=statistics.data)
    choice = choose_method(
        quantized.model,
        lambda method: by_method(method).to_model(),
        feeds,
        threads=feeding.threads,
        memory_limit=feeding.memory_limit,
    )
    best = by_method(choice.best)
    told = Decision("calibration method", str(choice), Decider.METHOD)
    return replace(best, data=statistics.data, decisions=(*best.decisions, told), method=choice.best)


def _moved(
    quantized: QuantizedModel,
    statistics: Statistics,
    feeds: Sequence[Feed],
    steps: Sequence[WeightStep],
    feeding: Feeding,
) -> QuantizedModel:
    plain = _calibrated(quantized, replace(statistics, means={}), feeds, feeding)
    assert plain.parameters is not None
    means = statistics.channel_means() if quantized.config.bias_correction else None
    done = with_moved_weights(plain.model, plain.sites, plain.parameters, means, steps, feeding)
    left = tuple(Decision(tensor, reason, Decider.CODES) for tensor, reason in done.refused.items())
    return replace(
        plain,
        model=done.model,
        decisions=(*plain.decisions, *left),
        parameters=done.parameters,
        weight_changes=done.layers,
    )


def _prepared(quantized: QuantizedModel, feeding: Feeding) -> QuantizedModel:
    placed = Placement(quantized.sites, quantized.decisions)
    model, placement = prepared(quantized.model, placed, quantized.matches, quantized.config, feeding)
    return replace(quantized, model=model, sites=placement.sites, decisions=placement.decisions)


def with_statistics(
    quantized: QuantizedModel,
    statistics: Mapping[str, TensorStatistics],
    means: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
    automatic: RangeMethod = FALLBACK,
    constants: dict[Site, Parameters] | None = None,
) -> QuantizedModel:
    """Returns the model calibrated from statistics that were collected before; no inference.

    `means` are the channel means by which biases are corrected; where they are absent, biases stay. `automatic` finds
    ranges where the method is `auto`; numbers of constants that are in `constants` are not looked for again.
    """
    quantized, numbers = _activations(quantized, statistics, automatic, {} if constants is None else constants)
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
    quantized: QuantizedModel,
    statistics: Mapping[str, TensorStatistics],
    automatic: RangeMethod,
    constants: dict[Site, Parameters],
) -> tuple[QuantizedModel, SiteNumbers]:
    """Chooses the ranges of activations; where they show that branches do not fit together, places anew."""
    numbers = SiteNumbers(quantized.model, statistics, automatic, constants)
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
    return _activations(placed, statistics, automatic, constants)
