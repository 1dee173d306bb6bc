"""GPTQ: the weights of a layer are rounded one input after the other, and those that are left make up for the error.

The squared error of the outputs is a quadratic form of the change of the weights, whose matrix H = E[x xᵀ] is the same
for every output. When input j is rounded, the best change of the others follows from H⁻¹ (Frantar, Ashkboos, Hoefler
and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023, section 3
and algorithm 1: Cholesky factor of H⁻¹, lazy updates of blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.grids import Problem, Rounded, nearest
from quantonnx.algorithms.layerwise import Pace
from quantonnx.algorithms.scale_search import RATIOS, searched, searched_rows
from quantonnx.algorithms.second_moments import damped
from quantonnx.config.recipe import GptqConfig
from quantonnx.errors import ConfigError
from quantonnx.formats import Parameters

Array = NDArray[Any]

_BLOCK = 128
"""Inputs whose updates reach the rest of the weight together."""


class Gptq(GptqConfig):
    """The algorithm with its settings."""

    @property
    def pace(self) -> Pace:
        """How layers follow each other."""
        return Pace(sequential=self.true_sequential, asymmetric=self.asymmetric)

    def round(self, problem: Problem) -> Rounded:
        """Returns the codes of one layer."""
        fmt = problem.format
        if fmt.group_size is None or self.static_groups or fmt.axis != problem.layer.input_axis:
            if self.search_scales:
                problem = replace(problem, parameters=searched(problem))
            return Rounded(_Columns(problem, self.damp_percent, by_size=self.desc_act).rounded(), problem.parameters)
        if self.desc_act:
            told = "gptq.desc_act orders inputs, and the groups of ONNX are neighbours"
            raise ConfigError(told, "set static_groups too")
        return _with_scales(problem, self.damp_percent, fmt.group_size, RATIOS if self.search_scales else (1.0,))


class _Columns:
    """The matrix of a layer while its columns are rounded, in the order of the columns of `values`."""

    def __init__(self, problem: Problem, percent: float, *, by_size: bool) -> None:
        self.format = problem.format
        second = damped(problem.second, percent)
        order = np.broadcast_to(np.arange(second.shape[-1]), second.shape[:2])
        if by_size:
            order = np.argsort(-np.diagonal(second, axis1=1, axis2=2), axis=1, kind="stable")
        self.order = order[:, None, :]
        self.values = np.take_along_axis(problem.target, self.order, 2)
        self.steps = [np.take_along_axis(each, self.order, 2) for each in problem.steps()]
        ordered = np.take_along_axis(np.take_along_axis(second, order[:, :, None], 1), self.order, 2)
        self.factor = _upper_factor(ordered)
        self.codes = np.empty_like(self.values)

    def rounded(self) -> Array:
        """Rounds every column and returns the codes in the order of the weight."""
        for start in range(0, self.values.shape[-1], _BLOCK):
            self.round_block(slice(start, start + _BLOCK))
        codes = np.empty_like(self.codes)
        np.put_along_axis(codes, np.broadcast_to(self.order, codes.shape), self.codes, 2)
        return codes

    def round_block(self, block: slice) -> None:
        """Rounds some neighbours, each making up for those before; then what is behind makes up for all of them."""
        values, factor = self.values[:, :, block], self.factor[:, block, block]
        errors = np.empty_like(values)
        for j in range(values.shape[-1]):
            at = block.start + j
            scale, zero_point = (each[:, :, at] for each in self.steps)
            codes = self.codes[:, :, at] = nearest(values[:, :, j], scale, zero_point, self.format)
            error = (values[:, :, j] - (codes - zero_point) * scale) / factor[:, j, j, None]
            values[:, :, j:] -= error[:, :, None] * factor[:, None, j, j:]
            errors[:, :, j] = error
        self.values[:, :, block.stop :] -= errors @ self.factor[:, block, block.stop :]


def _upper_factor(second: Array) -> Array:
    """The upper triangular U with UᵀU = H⁻¹, [groups, inputs, inputs]."""
    lower = np.linalg.cholesky(second[:, ::-1, ::-1])  # H = (P L P)(P L P)ᵀ, of which P L P is upper triangular
    upper = lower[:, ::-1, ::-1]
    inverse = np.linalg.inv(upper)
    return np.ascontiguousarray(np.triu(inverse))


def _with_scales(problem: Problem, percent: float, size: int, ratios: Sequence[float]) -> Rounded:
    """Rounds group after group, with the scales of what a group is by then."""
    columns = _Columns(problem, percent, by_size=False)
    fmt, kind = problem.format, problem.layer.site.float_type
    found = []
    for start in range(0, problem.weight.shape[-1], size):
        group = columns.values[0, :, start : start + size]
        part = slice(start, start + size)
        numbers = searched_rows(group, problem.second[0, part, part], fmt, kind, ratios)
        for steps, each in zip(columns.steps, (numbers.scale, numbers.zero_point), strict=True):
            steps[0, :, start : start + size] = each[:, None]
        columns.round_block(slice(start, start + size))
        found.append(numbers)
    layer = problem.layer
    scale, zero_point = (
        np.ascontiguousarray(layer.tensor(np.stack([getattr(each, name) for each in found], axis=1)[None]))
        for name in ("scale", "zero_point")
    )
    return Rounded(columns.codes, Parameters(scale, zero_point))
