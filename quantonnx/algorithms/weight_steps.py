"""Several algorithms that move weights, in the order that a user gave: a layer goes through all of them, then the next.

So samples pass once, whatever the number of algorithms, and each algorithm starts from the scales of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from quantonnx.algorithms.adaround import AdaRound
from quantonnx.algorithms.awq import Awq
from quantonnx.algorithms.gptq import Gptq
from quantonnx.algorithms.grids import Problem, Rounded
from quantonnx.algorithms.layer_choice import skipped
from quantonnx.algorithms.layerwise import Pace, WeightChange, change_weights
from quantonnx.algorithms.weight_layers import weight_layers
from quantonnx.calibration.feeds import Progress
from quantonnx.config import RecipeStep
from quantonnx.formats import Parameters
from quantonnx.model import Model
from quantonnx.sites import Site

Array = NDArray[Any]


WeightStep = Awq | Gptq | AdaRound
"""An algorithm with its settings: a step of a recipe that chooses codes."""

_ALGORITHMS: dict[str, type[WeightStep]] = {"awq": Awq, "gptq": Gptq, "adaround": AdaRound}


def weight_steps(recipe: Iterable[RecipeStep]) -> list[WeightStep]:
    """Returns the steps of a recipe that choose codes, in its order."""
    return [_ALGORITHMS[step.name](**dict(step.settings)) for step in recipe if step.chooses_codes]


def run_steps(
    model: Model,
    sites: Sequence[Site],
    parameters: Mapping[Site, Parameters],
    samples: Iterable[Mapping[str, Array]],
    steps: Sequence[WeightStep],
    *,
    biases: bool = True,
    least: Mapping[Site, Array] = MappingProxyType({}),
    threads: int | None = None,
    progress: Progress | None = None,
) -> WeightChange:
    """Returns the fused float model with its weights on their grids; see `change_weights`.

    `biases` lets biases take up the mean error. Layers follow each other as the most careful step asks for. Raises what
    `change_weights` and the steps raise.
    """
    layers, _ = weight_layers(model, sites)
    without = [skipped(step, layers) for step in steps]
    nowhere = {tensor: why for tensor, why in without[0].items() if all(tensor in each for each in without)}

    def rounded(problem: Problem) -> Rounded:
        found = Rounded(problem.plain(), problem.parameters)
        for step, left in zip(steps, without, strict=True):
            if problem.layer.site.tensor not in left:
                found = step.round(replace(problem, parameters=found.parameters))
        return found

    return change_weights(
        model,
        sites,
        parameters,
        samples,
        rounded,
        pace=Pace(
            any(step.pace.sequential for step in steps), any(step.pace.asymmetric for step in steps), biases=biases
        ),
        skipped=nowhere,
        least=least,
        threads=threads,
        progress=progress,
    )
