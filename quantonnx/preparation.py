"""What a recipe does to the fused float model before calibration: exact in float, one algorithm after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantonnx.algorithms.awq import scale_activations
from quantonnx.algorithms.bias_absorption import absorb_biases
from quantonnx.algorithms.equalization import equalize
from quantonnx.algorithms.input_scaling import scale_inputs
from quantonnx.algorithms.norm_readers import NormReaders, Refused, Skip, norm_readers
from quantonnx.algorithms.smooth_quant import smooth
from quantonnx.calibration.feeds import ForwardLoop, Progress
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.config import QuantConfig, RecipeStep
from quantonnx.config.recipe import Recipe
from quantonnx.decisions import Decider, Decision
from quantonnx.model import Model
from quantonnx.placement import Placement, place
from quantonnx.rewriting import Matches
from quantonnx.sites import readers_of_pairs
from quantonnx.slots import rules_of
from quantonnx.target import Target


@dataclass(frozen=True)
class Feeding:
    """Where the samples of a calibration come from, and how they are run; see `calibrate`."""

    samples: Any = None
    forward_loop: ForwardLoop | None = None
    threads: int | None = None
    progress: Progress | None = None
    memory_limit: int | None = None


def prepared(
    model: Model, placement: Placement, matches: Matches, config: QuantConfig, feeding: Feeding
) -> tuple[Model, Placement]:
    """Returns the model after the steps of the recipe that come before calibration, and where its pairs stand.

    Each step places anew: weights that others read too get twins with names of their own.
    """
    told: list[Decision] = []
    for step in steps_of(config, matches.target):
        if step.name not in _STEPS:
            continue
        changed, refused = _STEPS[step.name](model, placement, matches, config, step, feeding)
        told += (Decision(each.activation, each.reason, DECIDERS[step.name]) for each in refused)
        placement = placement if changed is model else place(changed, matches, config)
        model = changed
    return model, Placement(placement.sites, (*placement.decisions, *told))


def steps_of(config: QuantConfig, target: Target) -> Recipe:
    """Returns the recipe: that of the user, or that of the target where the user says nothing of it."""
    if config.steps or "recipe" in config.model_fields_set:
        return config.steps
    return tuple(RecipeStep.model_validate({name: {}}) for name in target.recipe)


def _equalized(
    model: Model, placement: Placement, matches: Matches, config: QuantConfig, step: RecipeStep, feeding: Feeding
) -> tuple[Model, tuple[Refused, ...]]:
    done = equalize(model, skip=rules_of(step.settings.skip, "recipe.equalize.skip").first)
    return done.model, done.refused


def _absorbed(
    model: Model, placement: Placement, matches: Matches, config: QuantConfig, step: RecipeStep, feeding: Feeding
) -> tuple[Model, tuple[Refused, ...]]:
    done = absorb_biases(
        model,
        feeding.samples,
        skip=rules_of(step.settings.skip, "recipe.absorb_biases.skip").first,
        forward_loop=feeding.forward_loop,
        threads=feeding.threads,
        progress=feeding.progress,
        memory_limit=feeding.memory_limit,
    )
    return done.model, done.refused


def _smoothed(
    model: Model, placement: Placement, matches: Matches, config: QuantConfig, step: RecipeStep, feeding: Feeding
) -> tuple[Model, tuple[Refused, ...]]:
    done = smooth(
        model,
        feeding.samples,
        alpha=step.settings.alpha,
        scale_clamp_min=step.settings.scale_clamp_min,
        skip=_without_smoothing(model, placement, matches, config),
        forward_loop=feeding.forward_loop,
        threads=feeding.threads,
        progress=feeding.progress,
        memory_limit=feeding.memory_limit,
    )
    return done.model, done.refused


def _without_smoothing(model: Model, placement: Placement, matches: Matches, config: QuantConfig) -> Skip:
    """Names what the user skips, and norms whose linear layers all stay in float: they gain nothing by it."""
    skipped = rules_of(config.skip.smooth, "skip.smooth")
    found = (norm for norm in norm_readers(model, skipped.first) if isinstance(norm, NormReaders))
    integer = readers_of_pairs(model, placement.sites, matches.target)
    floats = {norm.result.name for norm in found if integer.isdisjoint(norm.linears)}
    return lambda names: skipped.first(names) or (None if floats.isdisjoint(names) else "linear layers in float")


def _divided(
    model: Model, placement: Placement, matches: Matches, config: QuantConfig, step: RecipeStep, feeding: Feeding
) -> tuple[Model, tuple[Refused, ...]]:
    samples = open_samples(feeding.samples, input_specs(model))
    done = scale_activations(
        model,
        placement.sites,
        samples,
        step.settings,
        skip=rules_of(config.skip.smooth, "skip.smooth").first,
        threads=feeding.threads,
        progress=feeding.progress,
    )
    return done.model, done.refused


def _scaled(
    model: Model, placement: Placement, matches: Matches, config: QuantConfig, step: RecipeStep, feeding: Feeding
) -> tuple[Model, tuple[Refused, ...]]:
    done = scale_inputs(
        model,
        placement.sites,
        feeding.samples,
        least_gain=step.settings.least_gain,
        skip=rules_of(step.settings.skip, "recipe.scale_inputs.skip").first,
        forward_loop=feeding.forward_loop,
        threads=feeding.threads,
        memory_limit=feeding.memory_limit,
    )
    return done.model, tuple(Refused(each.activation, str(each)) for each in done.scaled)


_STEPS = {
    "equalize": _equalized,
    "absorb_biases": _absorbed,
    "smooth_quant": _smoothed,
    "scale_inputs": _scaled,
    "awq": _divided,
}
DECIDERS = {
    "equalize": Decider.EQUALIZE,
    "absorb_biases": Decider.ABSORB,
    "smooth_quant": Decider.SMOOTH,
    "scale_inputs": Decider.SCALE,
    "awq": Decider.AWQ,
}
"""Who tells what a step did or left alone, by the step."""
