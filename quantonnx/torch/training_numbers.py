"""Scale and zero point of fake-quantized tensors: kept, tracked, learned, following a weight, or found at run time.

Sites that take the range of one tensor share one of these modules, so that they share the numbers also when training
changes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from quantonnx.errors import CalibrationError
from quantonnx.formats import Parameters, TensorFormat
from quantonnx.torch.range_arithmetic import (
    ScaleKind,
    aligned,
    extremes,
    grouped,
    kind_of,
    of_kind,
    parameters_of,
    range_of,
    scale_of,
)

_MOST_BEYOND = 1.5
"""A scale that is more than this times that of the values was raised for another reason: it is a least one."""

_LEAST_FACTOR = 1 / 1024
"""Of a learned scale, so that no step of an optimizer makes it negative."""


class Numbers(nn.Module):
    """Scale and zero point of a format, the same at every site that shares this module.

    `start` has them from calibration; without, the first range that is observed gives them. `averaging` is the weight
    of the newest range in the moving average; None keeps the extremes of all. `least` is the least width of a range.
    With `fixed` nothing changes them. The buffers `scale` and `zero_point` are float32.
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(
        self,
        fmt: TensorFormat,
        start: Parameters | None = None,
        *,
        averaging: float | None = 0.01,
        least: float = 0.0,
        fixed: bool = False,
        float_type: str = "float32",
    ) -> None:
        super().__init__()
        self.format, self.kind = fmt, kind_of(fmt, float_type)
        self.averaging, self.least, self.fixed = averaging, least, fixed
        self.shifted = not (fmt.symmetric and fmt.signed)
        scale, zero_point = _tensors(start)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        low, high = range_of(scale, zero_point, fmt)
        self.register_buffer("low", low.float())
        self.register_buffer("high", high.float())
        self.register_buffer("seen", torch.tensor(start is not None))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns scale and zero point, which is None where it is always 0, in a shape that broadcasts over `x`.

        They are copies: tracking changes the buffers while the gradients of an earlier pass are still to come.
        """
        return self._aligned(self.scale.clone(), self.zero_point.clone() if self.shifted else None, x)

    def observe(self, x: Tensor) -> None:
        """Takes the range of a tensor into the moving average; infinite ones, as of an overflow, do not count."""
        if self.fixed or not x.numel():
            return
        low, high = extremes(x.detach(), self.format)
        self.low.copy_(self._tracked(self.low, low, torch.minimum))
        self.high.copy_(self._tracked(self.high, high, torch.maximum))
        self.seen.fill_(True)
        high = torch.maximum(self.high, self.low + self.least) if self.least else self.high
        scale, zero_point = parameters_of(self.low, high, self.format, self.kind)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def current(self) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point as they are now, in the shape of `Parameters`."""
        return self.scale, self.zero_point

    def _tracked(self, old: Tensor, new: Tensor, furthest: Any) -> Tensor:
        kept = furthest(old, new) if self.averaging is None else torch.lerp(old, new, self.averaging)
        return torch.where(new.isfinite(), torch.where(self.seen, kept, new), old)

    def _aligned(self, scale: Tensor, zero_point: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
        rank = x.ndim - (self.format.group_size is not None)
        shift = None if zero_point is None else aligned(zero_point, self.format, rank)
        return aligned(scale, self.format, rank), shift

    def extra_repr(self) -> str:
        """Returns what `print(module)` shows."""
        return "fixed" if self.fixed else ""


class LearnedNumbers(Numbers):
    """Numbers with parameters that an optimizer changes: `factor` of the scale and, asymmetric, `shift` of the codes.

    The scale is `scale · factor`, the zero point `zero_point + shift · (qmax − qmin)`, rounded. Both are relative, so
    that the step of Adam, which is the same for all parameters, is the same share of every scale; their gradients are
    such that plain gradient descent moves scale and offset as it would with the gradients of the papers.
    """

    def __init__(self, fmt: TensorFormat, start: Parameters | None = None, **settings: Any) -> None:
        super().__init__(fmt, start, **settings)
        self.factor = nn.Parameter(torch.ones_like(self.scale))
        self.shift = None if fmt.symmetric else nn.Parameter(torch.zeros_like(self.zero_point))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns scale and zero point, through which gradients come to `factor` and `shift`."""
        scale, zero_point = self.current()
        return self._aligned(scale, zero_point if self.shifted else None, x)

    def current(self) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point as they are now, in the shape of `Parameters`."""
        fmt, base = self.format, self.scale.clone()
        scale: Tensor = _Scaled.apply(self.factor, base, self.kind)  # type: ignore[no-untyped-call]
        if self.shift is None:
            return scale, self.zero_point.clone()
        moved = _Shifted.apply(self.shift, self.zero_point.clone(), scale.detach(), fmt)  # type: ignore[no-untyped-call]
        return scale, moved


class FollowingNumbers(nn.Module):
    """Numbers of a weight that follow its values: what its range was at the start, it is to the values of now.

    A weight that grows is not cut off, and one that was folded with a batch normalization changes its size with the
    running variance. The share of the range that calibration chose stays, 1 for `minmax`; a scale that was raised far
    beyond its values, as one is for the sake of the bias, is not fallen below.
    """

    share: Tensor
    floor: Tensor

    def __init__(self, fmt: TensorFormat, start: Parameters, values: Tensor, *, float_type: str = "float32") -> None:
        super().__init__()
        self.format, self.kind = fmt, kind_of(fmt, float_type)
        self.shifted = not (fmt.symmetric and fmt.signed)
        values = values.detach().float()
        ends = self._ends(values if fmt.group_size is None else grouped(values, fmt))
        low, high = range_of(*_tensors(start), fmt)
        wanted = high if fmt.symmetric else torch.stack([low, high])
        share = wanted / ends
        usable = share.isfinite() & (share <= _MOST_BEYOND)
        self.register_buffer("share", torch.where(usable, share, 1.0))
        self.register_buffer("floor", torch.where(usable, 0.0, wanted))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns scale and zero point for the values `x`, in a shape that broadcasts over them; without gradients."""
        scale, zero_point = self.of(x)
        rank = x.ndim - (self.format.group_size is not None)
        return aligned(scale, self.format, rank), aligned(zero_point, self.format, rank) if self.shifted else None

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point for the values `x`, which are grouped, in the shape of `Parameters`."""
        fmt, wide = self.format, self._ends(x.detach()) * self.share
        if not fmt.symmetric:
            low, high = torch.minimum(wide[0], self.floor[0]), torch.maximum(wide[1], self.floor[1])
            return parameters_of(low, high, fmt, self.kind)
        wide = torch.maximum(wide, self.floor)
        if fmt.signed:
            return scale_of(wide, fmt, self.kind), torch.zeros_like(wide, dtype=torch.float32)
        low = torch.where(extremes(x.detach(), fmt)[0] < 0, -wide, 0.0)
        return parameters_of(low, wide, fmt, self.kind)

    def _ends(self, x: Tensor) -> Tensor:
        """Returns the largest size of the values, or where the format is asymmetric both of their ends, float64."""
        low, high = extremes(x, self.format)
        return (torch.maximum(-low, high) if self.format.symmetric else torch.stack([low, high])).double()


class DynamicNumbers(nn.Module):
    """Numbers that a tensor has from its own values, as ONNX DynamicQuantizeLinear computes them: asymmetric uint8."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns scale and zero point, 0-d; without gradients."""
        low, high = x.detach().aminmax()
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / 255
        scale = torch.where(scale > 0, scale, 1.0)
        return scale, (-low / scale).clamp(0, 255).round()


class _Scaled(Function):
    """factor · scale, of the kind of the format; its gradient is that of the scale in units of the scale."""

    @staticmethod
    def forward(factor: Tensor, scale: Tensor, kind: ScaleKind) -> Tensor:
        return of_kind(factor.clamp(min=_LEAST_FACTOR) * scale, kind)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0] / ctx.saved_tensors[0], None, None


class _Shifted(Function):
    """The zero point, moved by a share of the codes; the offset −zero_point · scale moves as its own gradient says."""

    @staticmethod
    def forward(shift: Tensor, zero_point: Tensor, scale: Tensor, fmt: TensorFormat) -> Tensor:
        return (zero_point + shift * (fmt.qmax - fmt.qmin)).round().clamp(fmt.qmin, fmt.qmax)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.width = inputs[3].qmax - inputs[3].qmin

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = ctx.saved_tensors[0]
        return gradients[0] / (scale * scale * ctx.width), None, None, None


def _tensors(start: Parameters | None) -> tuple[Tensor, Tensor]:
    if start is None:
        return torch.ones(()), torch.zeros(())
    scale, zero_point = (torch.tensor(part.astype("float32")) for part in (start.scale, start.zero_point))
    if not bool((scale > 0).all()):
        raise CalibrationError("a scale is not above 0", "calibrate the model again")
    return scale, zero_point.expand_as(scale).clone()
