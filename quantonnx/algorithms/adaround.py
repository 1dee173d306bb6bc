"""AdaRound: every weight learns whether to be rounded up or down, so that the outputs of its layer change least.

h(V) = clip(σ(V)(ζ − γ) + γ, 0, 1) says how far a weight ⌊w/s⌋ + h(V) has gone up; Adam lessens the squared error of
the outputs and λ Σ (1 − |2h − 1|^β), which with a falling β drives h to 0 or 1 (Nagel, Amjad, van Baalen, Louizos and
Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, equations 21 to 25). The error
is tr(ΔW H ΔWᵀ) with H = E[x xᵀ]: its gradient is 2 ΔW H whatever the number of samples, none of which is kept.
Descent lessens the same error without learning: it gives one weight after the other the code that is best for what the
others are, until none changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.gptq import Gptq
from quantonnx.algorithms.grids import Problem, Rounded
from quantonnx.algorithms.layerwise import Pace
from quantonnx.algorithms.scale_search import searched
from quantonnx.algorithms.second_moments import damped
from quantonnx.config.recipe import AdaRoundConfig, Search

Array = NDArray[Any]

ZETA, GAMMA = 1.1, -0.1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_MEMORY, _SIZE_MEMORY, _LEAST_SIZE = 0.9, 0.999, 1e-8


class AdaRound(AdaRoundConfig):
    """The algorithm with its settings."""

    @property
    def pace(self) -> Pace:
        """How layers follow each other."""
        return Pace(sequential=self.true_sequential, asymmetric=self.asymmetric)

    def round(self, problem: Problem) -> Rounded:
        """Returns the codes of one layer."""
        second = damped(problem.second, self.damp_percent)
        if self.search_scales:
            problem = replace(problem, parameters=searched(problem))
        if self.search is Search.GRADIENT:
            return Rounded(learned(problem, second, self), problem.parameters)
        start = Gptq(damp_percent=self.damp_percent, static_groups=True).round(problem)
        return Rounded(descended(problem, second, start.codes, self.sweeps), problem.parameters)


def descended(problem: Problem, second: Array, codes: Array, sweeps: int) -> Array:
    """Returns codes of which no other single one would lessen tr((W' − target) H (W' − target)ᵀ), or those after so
    many sweeps; `codes` are where it starts."""
    fmt = problem.format
    scale, zero_point = (np.ascontiguousarray(each.transpose(0, 2, 1)) for each in problem.steps())
    codes = codes.transpose(0, 2, 1).copy()  # [groups, inputs, outputs]: what is read together lies together
    change = (codes - zero_point) * scale - problem.target.transpose(0, 2, 1)
    pulls = second @ change
    for _ in range(sweeps):
        any_moved = False
        for j in range(codes.shape[1]):
            ideal = codes[:, j] - pulls[:, j] / (second[:, j, j, None] * scale[:, j])
            moved = np.clip(np.rint(ideal), fmt.qmin, fmt.qmax) - codes[:, j]
            outputs = np.flatnonzero(moved.any(axis=0))
            if outputs.size:
                any_moved = True
                codes[:, j] += moved
                pulls[:, :, outputs] += second[:, :, j, None] * (moved * scale[:, j])[:, None, outputs]
        if not any_moved:
            break
    return codes.transpose(0, 2, 1)


def learned(problem: Problem, second: Array, settings: AdaRound) -> Array:
    """Returns the codes that Adam finds, whole numbers [groups, outputs, inputs]."""
    fmt = problem.format
    scale, zero_point = (each.astype(np.float32) for each in problem.steps())
    ideal = (problem.target / scale).astype(np.float32)
    floor = np.floor((problem.weight / scale).astype(np.float32))
    normal = (second / second.diagonal(axis1=1, axis2=2).mean(axis=1)[:, None, None]).astype(np.float32)
    low, high = fmt.qmin - zero_point, fmt.qmax - zero_point
    hidden = _inverse(np.clip(problem.weight / scale - floor, 0, 1).astype(np.float32))
    adam = _Adam(hidden, settings.learning_rate)
    warm = int(settings.warm_start * settings.iterations)
    for step in range(settings.iterations):
        up, slope = rectified(hidden)
        values = floor + up
        gradient = 2 * np.matmul(np.clip(values, low, high) - ideal, normal)
        gradient *= (values >= low) & (values <= high)
        if step >= warm:
            gradient += settings.regularization * regularized(up, beta_at(step - warm, settings.iterations - warm))
        adam.step(gradient * slope)
    up, _ = rectified(hidden)
    return np.asarray(np.clip(floor + (up >= 0.5) + zero_point, fmt.qmin, fmt.qmax).astype(np.float64))


def rectified(hidden: Array) -> tuple[Array, Array]:
    """Returns h(V) and its slope dh/dV (equation 23)."""
    sigmoid = 1 / (1 + np.exp(-hidden))
    stretched = sigmoid * (ZETA - GAMMA) + GAMMA
    inside = (stretched > 0) & (stretched < 1)
    return np.clip(stretched, 0, 1), sigmoid * (1 - sigmoid) * (ZETA - GAMMA) * inside


def regularized(up: Array, beta: float) -> Array:
    """Returns the slope of Σ (1 − |2h − 1|^β) in h (equation 24)."""
    centred = 2 * up - 1
    return np.asarray(-2 * beta * np.abs(centred) ** (beta - 1) * np.sign(centred))


def beta_at(step: int, steps: int) -> float:
    """Returns β, which falls from 20 to 2 in half a cosine."""
    return float(_LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 + np.cos(np.pi * step / max(steps, 1))) / 2)


def _inverse(up: Array) -> Array:
    """V with h(V) = `up`."""
    return np.asarray(-np.log((ZETA - GAMMA) / (up - GAMMA) - 1))


class _Adam:
    """Adam (Kingma and Ba, ICLR 2015) on one array, in place."""

    def __init__(self, values: Array, rate: float) -> None:
        self.values = values
        self.rate = rate
        self.mean = np.zeros_like(values)
        self.size = np.zeros_like(values)
        self.steps = 0

    def step(self, gradient: Array) -> None:
        """Takes one step against a gradient."""
        self.steps += 1
        self.mean += (1 - _MEMORY) * (gradient - self.mean)
        self.size += (1 - _SIZE_MEMORY) * (gradient * gradient - self.size)
        mean = self.mean / (1 - _MEMORY**self.steps)
        size = self.size / (1 - _SIZE_MEMORY**self.steps)
        self.values -= self.rate * mean / (np.sqrt(size) + _LEAST_SIZE)
