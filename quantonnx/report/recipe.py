"""What the recipe was, step by step: what each step changed, and what it left alone."""

from __future__ import annotations

from collections.abc import Iterator

from quantonnx.placement import Placement
from quantonnx.preparation import DECIDERS, Feeding, prepared
from quantonnx.quantized import QuantizedModel
from quantonnx.report.changes import Before, Change, changes
from quantonnx.report.facts import StepFacts


def step_facts(quantized: QuantizedModel) -> Iterator[StepFacts]:
    """Yields the algorithms of the recipe in their order, then the corrections that calibration makes."""
    config = quantized.config
    for step in config.steps:
        decider = DECIDERS.get(step.name)
        left = [(told.name, told.reason) for told in quantized.decisions if decider and told.decider is decider]
        settings = step.settings.model_dump(mode="json", exclude_none=True)
        yield StepFacts(step.name, {key: value for key, value in settings.items() if value != []}, tuple(left))
    if config.bias_correction:
        yield StepFacts("bias_correction", {})


def recipe_changes(placed: QuantizedModel, calibrated: QuantizedModel, feeding: Feeding) -> Iterator[Change]:
    """Yields what each step changed, and then what was done after calibration.

    Where several steps come before calibration they run once more, one by one, since a calibrated model has only what
    all of them left. `placed` is the model before calibration, `feeding` what calibration had.
    """
    steps = [step for step in placed.config.steps if step.name in DECIDERS]
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
