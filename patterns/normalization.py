"""LayerNorm and RMSNorm, as operators or in the parts that exporters write: each a region that stays in float.

What they compute, the mean of squares above all, needs the precision; and they read and write few numbers, so that
integer codes would gain no time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.pattern import Mismatch, Pattern, const, either, maybe, op, tensor

from .shapes import rank


def _kept(keepdims: Any) -> bool:
    return keepdims in (None, 1)


def _square(value: Any) -> Any:
    return either(op.Pow(value, const(2)), op.Mul(value, value))


def _divided(value: Any, variance: Any) -> Any:
    """The quotient of a value and the root of a variance, in the ways in which exporters write it."""
    root = op.Sqrt(variance)
    return either(
        op.Div(value, root),
        op.Mul(value, op.Reciprocal(root)),
        op.Mul(value, op.Div(const(1), root)),
        op.Mul(value, op.Pow(variance, const(-0.5))),
    )


class DecomposedNorm(Pattern):
    """What the two norms have in common: means over the last axes, and an epsilon."""

    x: Any
    mean: Any
    epsilon: Any
    gamma: Any
    beta: Any = None

    def check(self) -> None:
        """Refuses a mean over other axes than the last ones, and an epsilon that is not one number."""
        for node in self.nodes:
            if node.op == "ReduceMean" and self.normalized_axes(node) == 0:
                raise Mismatch(f"{node.name!r} is not known to be a mean over the last axes")
        if self.epsilon is not None and self.epsilon.shape and self.epsilon.shape != (1,):
            raise Mismatch(f"the epsilon {self.epsilon.name!r} is not one number")

    def normalized_axes(self, mean: gs.Node) -> int:
        """Returns over how many of the last axes a mean goes; 0 where it goes over others or cannot be told."""
        axes = mean.attrs.get("axes")
        if axes is None and len(mean.inputs) > 1 and isinstance(mean.inputs[1], gs.Constant):
            axes = np.atleast_1d(self.array(mean.inputs[1])).tolist()
        if not axes:
            return 0
        count = len(axes)
        size = rank(self.x) if max(axes) >= 0 else 0
        if size is None:
            return 0
        return count if sorted(a - size if a >= 0 else a for a in axes) == list(range(-count, 0)) else 0


class DecomposedLayerNorm(DecomposedNorm):
    """(x − mean) / √(variance + ε) · γ + β in parts, with the casts around it that half-precision models have."""

    x = tensor()
    gamma, beta, epsilon = const(), const(), const()
    axes, axes_again = const(optional=True), const(optional=True)

    wide = maybe(op.Cast(x))
    mean = op.ReduceMean(wide, axes, keepdims=_kept)
    centered = op.Sub(wide, mean)
    centered_again = either(centered, op.Sub(wide, mean))
    variance = op.ReduceMean(_square(maybe(op.Cast(centered_again))), axes_again, keepdims=_kept)
    steady = op.Add(variance, epsilon)
    scaled = maybe(op.Mul(maybe(op.Cast(_divided(centered, steady))), gamma))
    factor = op.Mul(either(op.Reciprocal(op.Sqrt(steady)), op.Pow(steady, const(-0.5))), gamma)
    output = either(
        maybe(op.Add(scaled, beta)),
        op.Add(op.Mul(wide, factor), op.Sub(beta, op.Mul(mean, factor))),
    )


class LayerNorm(DecomposedLayerNorm):
    """Layer normalization: stays in float, its integer form loses accuracy and gains no time."""

    output = either(op.LayerNormalization(DecomposedLayerNorm.x, ...), DecomposedLayerNorm.output)


class DecomposedRMSNorm(DecomposedNorm):
    """x / √(mean of squares + ε) · γ in parts."""

    x = tensor()
    gamma, epsilon = const(), const()
    axes = const(optional=True)

    wide = maybe(op.Cast(x))
    mean = op.ReduceMean(_square(wide), axes, keepdims=_kept)
    steady = op.Add(mean, epsilon)
    output = maybe(op.Mul(maybe(op.Cast(_divided(wide, steady))), gamma))


class RMSNorm(DecomposedRMSNorm):
    """Root-mean-square normalization: stays in float, its integer form loses accuracy and gains no time."""

    output = either(op.RMSNormalization(DecomposedRMSNorm.x, ...), DecomposedRMSNorm.output)


class FusedNorm(Pattern):
    """A normalization that ONNX Runtime has fused already (with an Add, with embeddings): left alone, in float."""

    _names = (
        op("com.microsoft").SkipLayerNormalization
        | op("com.microsoft").SkipSimplifiedLayerNormalization
        | op("com.microsoft").SimplifiedLayerNormalization
        | op("com.microsoft").EmbedLayerNormalization
    )
    x = tensor()
    output = either(_names(x, ...), op.SimplifiedLayerNormalization(x, ...))


class LayerScale(Pattern):
    """residual + γ · x with a factor for each channel: stays in float, it moves more than it computes."""

    x, residual = tensor(), tensor()
    gamma = const()
    output = op.Add(maybe(op.Transpose(op.Mul(x, gamma))), residual)

    def check(self) -> None:
        """Refuses one factor for all channels, several axes of them, and a constant for a residual branch."""
        size = int(np.prod(self.gamma.shape))
        if size < 2 or max(self.gamma.shape) != size:
            raise Mismatch(f"{self.gamma.name!r} is not one factor for each channel")
        for value in (self.x, self.residual):
            if isinstance(value, gs.Constant):
                raise Mismatch(f"{value.name!r} is a constant")


normalizations = (LayerNorm, RMSNorm, FusedNorm, LayerScale)
