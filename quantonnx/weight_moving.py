"""Weights moved onto their grids, and what follows from it for the numbers of biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quantonnx.algorithms.bias_correction import correct_biases
from quantonnx.algorithms.layerwise import WeightChange
from quantonnx.algorithms.weight_steps import WeightStep, run_steps
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.formats import Parameters
from quantonnx.model import Model
from quantonnx.preparation import Feeding
from quantonnx.site_numbers import SiteNumbers
from quantonnx.sites import Site


def with_moved_weights(
    model: Model,
    sites: tuple[Site, ...],
    parameters: Mapping[Site, Parameters],
    means: Mapping[str, np.ndarray[Any, Any]] | None,
    steps: Sequence[WeightStep],
    feeding: Feeding,
) -> WeightChange:
    """Returns the fused model with the weights that the steps chose, the numbers of all its sites, and what was done.

    `means` are the channel means by which biases are corrected that no step corrected; None leaves all biases alone.
    """
    numbers = SiteNumbers.of(model, parameters)
    derived = [site for site in sites if site.derived_from is not None]
    change = run_steps(
        model,
        sites,
        parameters,
        open_samples(feeding.samples, input_specs(model)),
        steps,
        biases=means is not None,
        least=dict(map(numbers.least_for_bias, derived)),
        threads=feeding.threads,
        progress=feeding.progress,
    )
    numbers.parameters.update(change.parameters)
    for site in derived:
        numbers.bias(site)
    rest = tuple(site for site in sites if site.is_weight and site not in change.corrected)
    corrected = correct_biases(change.model, rest, numbers.parameters, means or {})
    return replace(change, model=corrected, parameters=numbers.parameters)
