"""Batch normalization folded into the convolution before it, and what both were before: training needs that again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BatchNormFold:
    """The constants of a convolution and of the normalization behind it, and what the folded bias is called.

    `transposed` is for ConvTranspose; `momentum` is the share of the old in running statistics, as ONNX counts it.
    """

    weight: gs.Constant
    bias: gs.Constant | None
    gamma: gs.Constant
    beta: gs.Constant
    mean: gs.Constant
    variance: gs.Constant
    epsilon: float
    momentum: float
    group: int
    transposed: bool
    folded_bias: str = ""

    @property
    def constants(self) -> tuple[gs.Constant | None, ...]:
        """Weight, bias, gamma, beta, mean, variance."""
        return self.weight, self.bias, self.gamma, self.beta, self.mean, self.variance

    def folded(self, values: Sequence[Any]) -> tuple[Array, Array]:
        """Returns the weight and the bias that do both operators' work, in the weight's type.

        `values` are arrays in the order of `constants`; the bias may be None.
        """
        weight, bias, gamma, beta, mean, variance = values
        factor = self.factor(gamma, variance)
        start = bias.astype(np.float64) if bias is not None else np.zeros(len(mean))
        scaled = weight * self._over_outputs(factor, weight.dtype, weight.shape)
        shifted = (start - mean.astype(np.float64)) * factor + beta.astype(np.float64)
        return scaled.astype(weight.dtype, copy=False), shifted.astype(weight.dtype)

    def unfolded(self, folded: tuple[Array, Array], values: Sequence[Any]) -> tuple[Array, Array]:
        """Returns the weight and the beta that give the folded weight and bias, the other values being as they are.

        The weights of a channel that gamma switches off stay.
        """
        weight, bias, gamma, beta, mean, variance = values
        factor = self.factor(gamma, variance)
        alive = np.abs(factor) > np.finfo(np.float32).tiny
        inverse = self._over_outputs(
            np.divide(1, factor, where=alive, out=np.ones_like(factor)), weight.dtype, weight.shape
        )
        kept = self._over_outputs(alive.astype(np.float64), weight.dtype, weight.shape) != 0
        start = bias.astype(np.float64) if bias is not None else np.zeros(len(mean))
        shifted = folded[1].astype(np.float64) - (start - mean.astype(np.float64)) * factor
        return np.where(kept, folded[0] * inverse, weight).astype(weight.dtype), shifted.astype(beta.dtype)

    def factor(self, gamma: Array, variance: Array) -> Array:
        """Returns gamma / √(variance + epsilon) for each output channel, in float64."""
        return np.asarray(gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + self.epsilon))

    def _over_outputs(self, factor: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Shapes one number per output channel like the weight; a factor may not fit into float16."""
        wide = factor.astype(np.promote_types(dtype, np.float32))
        spatial = (1,) * (len(shape) - 2)
        if not self.transposed:
            return wide.reshape(-1, 1, *spatial)
        by_group = wide.reshape(self.group, 1, shape[1], *spatial)
        spread = np.broadcast_to(by_group, (self.group, shape[0] // self.group, shape[1], *spatial))
        return spread.reshape(shape[0], shape[1], *spatial)
