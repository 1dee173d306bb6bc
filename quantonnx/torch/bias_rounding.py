"""Biases as the int32 codes that the file has of them: their step is the product of two scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantonnx.insertion import INT32_MAX
from quantonnx.torch.fake_quantization import FakeQuantize


class BiasRounding(nn.Module):
    """Gives a bias the values that its codes stand for, with the scales that activation and weight have now.

    It rounds while the weight's layer is enabled; gradients pass as if it did not.
    """

    def __init__(self, activation: FakeQuantize, weight: FakeQuantize) -> None:
        super().__init__()
        self.activation, self.weight = activation, weight

    def forward(self, bias: Tensor, weight: Tensor) -> Tensor:
        """Returns the rounded bias [C]; `weight` are the values that the weight's layer quantizes."""
        if not self.weight.enabled:
            return bias
        with torch.no_grad():
            step = (self.activation.current()[0] * self.weight.current(weight)[0]).double()
            rounded = (bias.double() / step).round().clamp(-INT32_MAX, INT32_MAX) * step
            change = rounded.to(bias.dtype) - bias
        return bias + change
