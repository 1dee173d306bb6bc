"""A convolution with the batch normalization that was folded into it: in training both are there again.

What is quantized is the folded weight, as in the file. With the statistics of each batch folded in, its codes would
jump from batch to batch; with the running ones alone, training would lose what normalization does for it. So the weight
is folded and quantized with the running statistics, and the result set right to those of the batch (Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference", arXiv 1806.08342, section 3.2.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from quantonnx.batch_norm_folds import BatchNormFold
from quantonnx.torch.node import Call


class FoldedConvolution(nn.Module):
    """Conv or ConvTranspose, and BatchNormalization, of which the file has one convolution.

    `call` is the convolution's translation. In training, the statistics are those of the batch, which the convolution
    with the float weight gives, and the running ones move by `momentum` (torch's: the share of the new); that takes two
    convolutions, one where nothing is quantized. When `frozen`, and in evaluation, it is one, with the folded weight,
    quantized by `fake_quantize`, and the folded bias: bit for bit those of `BatchNormFold.folded`. `round_bias` gives
    that bias, beside the folded weight, the values of its codes.
    """

    def __init__(
        self,
        call: Call,
        fold: BatchNormFold,
        fake_quantize: nn.Module | None = None,
        round_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.call, self.group, self.transposed = call, fold.group, fold.transposed
        self.epsilon, self.momentum = fold.epsilon, 1 - fold.momentum
        self.frozen = False
        self.fake_quantize = fake_quantize
        self.round_bias = round_bias

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
    ) -> Tensor:
        """Returns the normalized convolution of `x` [N, C, …]; the others are those of `BatchNormFold.constants`."""
        if self.frozen or not self.training:
            factor = self._factor(gamma, variance)
            start = mean.double().neg() if bias is None else bias.double() - mean.double()
            folded = (start * factor + beta.double()).to(weight.dtype)
            scaled = self._scaled(weight, factor)
            if self.round_bias is not None:
                folded = self.round_bias(folded, scaled)
            return self._convolved(x, self._quantized(scaled), folded)
        if self.fake_quantize is None or not getattr(self.fake_quantize, "enabled", True):
            convolved = self._convolved(x, weight, bias)
            return functional.batch_norm(convolved, mean, variance, gamma, beta, True, self.momentum, self.epsilon)
        batch_mean, batch_variance = self._statistics(self._convolved(x, weight, None), bias, mean, variance)
        factor, of_batch = self._factor(gamma, variance), self._factor(gamma, batch_variance)
        quantized = self._quantized(self._scaled(weight, factor))
        ratio = ((variance.double() + self.epsilon) / (batch_variance.double() + self.epsilon)).sqrt()
        shift = (beta.double() - batch_mean.double() * of_batch).to(weight.dtype)
        if bias is not None:
            shift = shift + 0 * bias  # the batch's mean takes it out again; it gets a gradient all the same, of zeros
        return self._convolved(x, self._scaled(quantized, ratio), shift)

    def get_extra_state(self) -> Tensor:
        """Returns whether the statistics are frozen."""
        return torch.tensor(self.frozen)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes from a checkpoint whether the statistics are frozen."""
        self.frozen = bool(state)

    def extra_repr(self) -> str:
        """Returns what `print(module)` shows."""
        return f"epsilon={self.epsilon}, momentum={self.momentum}, frozen={self.frozen}"

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self.call.function(x, weight, bias, **self.call.settings)
        return result

    def _quantized(self, weight: Tensor) -> Tensor:
        result: Tensor = weight if self.fake_quantize is None else self.fake_quantize(weight)
        return result

    def _statistics(
        self, convolved: Tensor, bias: Tensor | None, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns mean (of what has no bias yet) and variance of the batch, and moves the running ones."""
        batch_mean, batch_variance = _Statistics.apply(  # type: ignore[no-untyped-call]
            convolved.to(torch.promote_types(convolved.dtype, torch.float32))
        )
        count = convolved.numel() // convolved.shape[1]
        with torch.no_grad():
            moved = batch_mean if bias is None else batch_mean + bias
            mean.lerp_(moved.to(mean.dtype), self.momentum)
            unbiased = batch_variance * (count / max(count - 1, 1))
            variance.lerp_(unbiased.to(variance.dtype), self.momentum)
        return batch_mean, batch_variance

    def _factor(self, gamma: Tensor, variance: Tensor) -> Tensor:
        """Returns gamma / √(variance + epsilon) for each output channel, in float64."""
        return gamma.double() / (variance.double() + self.epsilon).sqrt()

    def _scaled(self, weight: Tensor, factor: Tensor) -> Tensor:
        """Returns the weight times one number for each output channel; a factor may not fit into float16."""
        wide = factor.to(torch.promote_types(weight.dtype, torch.float32))
        spatial = [1] * (weight.ndim - 2)
        if not self.transposed:
            return (weight * wide.reshape(-1, 1, *spatial)).to(weight.dtype)
        inputs, outputs = weight.shape[:2]
        by_group = wide.reshape(self.group, 1, outputs).expand(-1, inputs // self.group, -1)
        return (weight * by_group.reshape(inputs, outputs, *spatial)).to(weight.dtype)


class _Statistics(Function):
    """Mean and variance of each channel: a kernel of batch normalization, four times as fast as torch.var_mean."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        return mean, variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        over_x = (1, -1, *[1] * (x.ndim - 2))
        count = x.numel() // x.shape[1]
        factor = gradients[1] * (2 / count)
        result: Tensor = (x * factor.reshape(over_x)).add_((gradients[0] / count - factor * mean).reshape(over_x))
        return result
