"""What the recipe was, step by step: what each step changed, and what it tells."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from quantonnx.config import QuantConfig, RecipeStep
from quantonnx.decisions import OF_ALGORITHMS, Decider
from quantonnx.placement import Placement
from quantonnx.preparation import DECIDERS, Feeding, prepared, steps_of
from quantonnx.quantized import QuantizedModel
from quantonnx.report.changes import Before, Change, changes
from quantonnx.report.facts import StepFacts
from quantonnx.target import Target

_CALIBRATION = OF_ALGORITHMS.difference(DECIDERS.values())
"""What is told of algorithms, and not by a step that comes before calibration."""


def step_facts(quantized: QuantizedModel) -> Iterator[StepFacts]:
    """Yields the algorithms of the recipe in their order, then what calibration chose and corrected."""
    for step in steps_of(quantized.config, quantized.matches.target):
        yield StepFacts(step.name, _settings(step), _told(quantized, {DECIDERS.get(step.name)}))
    if chosen := _told(quantized, _CALIBRATION):
        yield StepFacts("calibration", {}, chosen)
    if quantized.config.bias_correction:
        yield StepFacts("bias_correction", {})


def configured_steps(config: QuantConfig, target: Target, method: str) -> Iterator[StepFacts]:
    """Yields the steps that a configuration asks for, with the method of calibration where there was one."""
    for step in steps_of(config, target):
        yield StepFacts(step.name, _settings(step))
    if method:
        yield StepFacts("calibration", {"method": method})
    if config.bias_correction:
        yield StepFacts("bias_correction", {})


def _settings(step: RecipeStep) -> dict[str, Any]:
    settings = step.settings.model_dump(mode="json", exclude_none=True)
    return {key: value for key, value in settings.items() if value != []}


def _told(quantized: QuantizedModel, deciders: Collection[Decider | None]) -> tuple[tuple[str, str], ...]:
    found = (decision for decision in quantized.decisions if decision.decider is not None)
    return tuple((decision.name, decision.reason) for decision in found if decision.decider in deciders)


def recipe_changes(placed: QuantizedModel, calibrated: QuantizedModel, feeding: Feeding) -> Iterator[Change]:
    """Yields what each step changed, and then what was done after calibration.

    Where several steps come before calibration they run once more, one by one, since a calibrated model has only what
    all of them left. `placed` is the model before calibration, `feeding` what calibration had.
    """
    steps = [step for step in steps_of(placed.config, placed.matches.target) if step.name in DECIDERS]
    model, placement = placed.model, Placement(placed.sites, placed.decisions)
    for number, step in enumerate(steps, 1):
        before = Before(model)
        if number == len(steps):
            model, placement = calibrated.reference or calibrated.model, Placement(calibrated.sites, ())
        else:
            config = placed.config.model_copy(update={"recipe": (step,), "smooth_quant": None})
            model, placement = prepared(model, placement, placed.matches, config, feeding)
        yield from changes(step.name, before, model, placement.sites)
    yield from _afterwards(placed, calibrated, Before(model))


def _afterwards(placed: QuantizedModel, calibrated: QuantizedModel, before: Before) -> Iterator[Change]:
    """What was done once the numbers of all sites were known: weights get codes that others choose, then biases."""
    choosing = [step.name for step in placed.config.steps if step.chooses_codes]
    yield from changes(" + ".join(choosing) or "calibration", before, calibrated.model, calibrated.weight_sites)
    biases = [site for site in calibrated.sites if not site.is_weight]
    yield from changes("bias_correction", before, calibrated.model, biases)
