"""Matrix products with a constant weight: Gemm, MatMul, MatMul + Add, with what is fused into them; look-up tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantonnx.pattern import INPUT, WEIGHT, Mismatch, Pattern, const, either, op, tensor

from .activation import gelu
from .convolution import activated


def output_axis(found: Any) -> int | None:
    """The output-channel axis of a linear weight: its last, or its first for a transposed Gemm.

    None for a stack of matrices, which gets one scale: ONNX Runtime refuses a scale per channel there.
    """
    if found.gemm is not None and found.gemm.attrs.get("transB", 0):
        return 0
    return 1 if len(found.weight.shape) == 2 else None


class Linear(Pattern):
    """Gemm, MatMul or MatMul → Add."""

    x = tensor()
    weight = const()
    bias = const(optional=True)

    gemm = op.Gemm(x, weight, bias, transA=lambda v: not v)
    matmul = op.MatMul(x, weight)
    output = either(gemm, op.Add(matmul, bias), matmul)

    qdq_points = (INPUT(x), WEIGHT(weight, axis=output_axis))

    def check(self) -> None:
        """Refuses scaled products, and weights that are not matrices."""
        if len(self.weight.shape) < 2:
            raise Mismatch(f"the weight {self.weight.name!r} is not a matrix")
        if self.gemm is not None and (
            self.gemm.attrs.get("alpha", 1.0),
            self.gemm.attrs.get("beta", 1.0),
        ) != (1.0, 1.0):
            raise Mismatch(f"{self.gemm.name!r} scales its product (alpha, beta)")


class LinearActivation(Linear):
    """Gemm, MatMul or MatMul → Add, with an activation, GELU in all its forms included."""

    output = either(activated(Linear.output), gelu(Linear.output))


class Embedding(Pattern):
    """A row of a table for each index: stays in float, it computes nothing, and an error in a row goes everywhere."""

    table = const()
    index = tensor()
    output = op.Gather(table, index, axis=lambda axis: not axis)

    def check(self) -> None:
        """Refuses what is no table of real numbers."""
        if len(self.table.shape) != 2 or np.dtype(self.table.dtype).kind in "biu":
            raise Mismatch(f"{self.table.name!r} is not a table of real numbers")


linears = (LinearActivation, Linear)
embeddings = (Embedding,)
