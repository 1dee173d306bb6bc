"""Batch normalization as a layer without tensors of its own: these stand in the module under their ONNX names."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from quantonnx.torch.node import Node


class BatchNormalization(nn.Module):
    """y = (x − mean) / √(variance + ε) · scale + bias.

    In training the statistics are those of the batch, and the running ones move by `momentum` (torch's: the share of
    the new), unless `frozen`.
    """

    def __init__(self, epsilon: float, momentum: float) -> None:
        super().__init__()
        self.epsilon, self.momentum, self.frozen = epsilon, momentum, False

    @classmethod
    def of(cls, node: Node) -> BatchNormalization:
        """Returns the layer of a node; ONNX counts the share of the old as momentum."""
        return cls(node.get("epsilon", 1e-5), 1 - node.get("momentum", 0.9))

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Returns the normalized values, of the shape of `x` [N, C, …]; the others are [C]."""
        batch = self.training and not self.frozen
        return functional.batch_norm(x, mean, variance, scale, bias, batch, self.momentum, self.epsilon)

    def extra_repr(self) -> str:
        """The numbers that print(module) shows."""
        return f"epsilon={self.epsilon}, momentum={self.momentum}, frozen={self.frozen}"
