"""What a batch normalization was before it was folded into a convolution: training needs it again."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True, eq=False)
class BatchNormFold:
    """The constants of a convolution and of the normalization behind it, and what the folded bias is called.

    `momentum` is the share of the old in running statistics, as ONNX counts it.
    """

    weight: gs.Constant
    bias: gs.Constant | None
    gamma: gs.Constant
    beta: gs.Constant
    mean: gs.Constant
    variance: gs.Constant
    epsilon: float
    momentum: float
    folded_bias: str
