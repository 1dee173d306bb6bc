"""Several algorithms that move weights, in the order that a user gave: a layer goes through all of them, then the next.

So samples pass once, whatever the number of algorithms, and each algorithm starts from the scales of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from numpy.typing import NDArray

from quantonnx.algorithms.grids import Problem, Rounded
from quantonnx.algorithms.layerwise import Pace, Progress, WeightChange, change_weights
from quantonnx.algorithms.weight_layers import WeightLayer, weight_layers
from quantonnx.formats import Parameters
from quantonnx.model import Model
from quantonnx.sites import Site

Array = NDArray[Any]


class WeightStep(Protocol):
    """An algorithm with its settings; `GptqSettings` is one."""

    @property
    def pace(self) -> Pace:
        """How layers follow each other."""

    def round(self, problem: Problem) -> Rounded:
        """Returns the codes of a layer."""

    def skipped(self, layers: Sequence[WeightLayer]) -> dict[str, str]:
        """Returns why layers are left alone, by tensor."""


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
    skipped = [step.skipped(layers) for step in steps]
    nowhere = {tensor: why for tensor, why in skipped[0].items() if all(tensor in each for each in skipped)}

    def rounded(problem: Problem) -> Rounded:
        found = Rounded(problem.plain(), problem.parameters)
        for step, without in zip(steps, skipped, strict=True):
            if problem.layer.site.tensor not in without:
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
