"""What the recipe was, step by step, and what each step left alone."""

from __future__ import annotations

from collections.abc import Iterator

from quantonnx.decisions import Decider
from quantonnx.quantized import QuantizedModel
from quantonnx.report.facts import StepFacts

RECIPE_DECIDERS = {"equalize": Decider.EQUALIZE, "smooth_quant": Decider.SMOOTH}
"""Who says what a step left alone."""


def step_facts(quantized: QuantizedModel) -> Iterator[StepFacts]:
    """Yields the algorithms of the recipe in their order, then the corrections that calibration makes."""
    config = quantized.config
    for step in config.steps:
        decider = RECIPE_DECIDERS.get(step.name)
        left = [(told.name, told.reason) for told in quantized.decisions if decider and told.decider is decider]
        yield StepFacts(step.name, step.settings.model_dump(mode="json"), tuple(left))
    if config.bias_correction:
        yield StepFacts("bias_correction", {})
