"""Batch normalization as a layer without tensors of its own: these stand in the module under their ONNX names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantonnx.torch.node import Node


class BatchNormalization(nn.Module):
    """y = (x − mean) / √(variance + ε) · scale + bias.

    In training, and with `always`, the statistics are those of the batch, unless `frozen`. In training the running ones
    move by `momentum` (torch's: the share of the new). With `shown` outputs it gives the moved ones after the values,
    then the batch's own.
    """

    def __init__(self, epsilon: float, momentum: float, *, always: bool = False, shown: int = 1) -> None:
        super().__init__()
        self.epsilon, self.momentum, self.frozen = epsilon, momentum, False
        self.always, self.shown = always, shown

    @classmethod
    def of(cls, node: Node, shown: int = 1) -> BatchNormalization:
        """Returns the layer of a node; ONNX counts the share of the old as momentum. Below opset 14 a node with more
        than one output normalizes by the batch."""
        always = bool(node.get("training_mode", 0)) if node.opset >= 14 else len(node.wanted) > 1
        return cls(node.get("epsilon", 1e-5), 1 - node.get("momentum", 0.9), always=always, shown=shown)

    def forward(
        self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """Returns the normalized values, of the shape of `x` [N, C, …]; the others are [C], or, as before opset 9, of
        one sample's shape."""
        if mean.ndim == self.shown == 1:
            return self._normalized(x, scale, bias, mean, variance)
        rows = x.flatten(1) if mean.ndim > 1 else x
        numbers = [value.flatten() for value in (scale, bias, mean, variance)]
        if self.shown > 1:
            values, *others = self._shown(rows, *numbers)
            return values.reshape(x.shape), *(value.reshape(mean.shape) for value in others)
        return self._normalized(rows, *numbers).reshape(x.shape)

    def _normalized(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        batch = (self.training or self.always) and not self.frozen
        if batch and not self.training:
            return functional.batch_norm(x, None, None, scale, bias, True, self.momentum, self.epsilon)
        return functional.batch_norm(x, mean, variance, scale, bias, batch, self.momentum, self.epsilon)

    def _shown(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        """Returns values, moved statistics, with ONNX's variance over all values, and the batch's own."""
        of_batch = torch.var_mean(x, (0, *range(2, x.ndim)), correction=0)
        moved = [old + (new - old) * self.momentum for old, new in zip((mean, variance), of_batch[::-1], strict=True)]
        return (self._normalized(x, scale, bias, mean, variance), *moved, *of_batch[::-1])[: self.shown]

    def extra_repr(self) -> str:
        """The numbers that print(module) shows."""
        return f"epsilon={self.epsilon}, momentum={self.momentum}, frozen={self.frozen}"
