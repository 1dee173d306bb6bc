"""Where the windows of convolutions and pools lie: padding and output sizes as ONNX counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Node, Unsupported

Pads = tuple[tuple[int, int], ...]
"""How much to add before and behind, by axis; less than nothing cuts off."""


@dataclass(frozen=True)
class Windows:
    """The windows of one operator; what is empty has ONNX's default: strides and dilations of 1, no padding."""

    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    ceil: bool = False

    @classmethod
    def of(cls, node: Node) -> Windows:
        """Returns the windows of a node."""
        auto_pad = node.get("auto_pad", "NOTSET")
        if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise Unsupported(f"auto_pad {auto_pad!r}")
        strides, dilations, pads = (tuple(node.get(name, ())) for name in ("strides", "dilations", "pads"))
        return cls(strides, dilations, pads, auto_pad, bool(node.get("ceil_mode", 0)))

    def steps(self, rank: int) -> tuple[int, ...]:
        """Returns the stride of each axis."""
        return self.strides or (1,) * rank

    def spacings(self, rank: int) -> tuple[int, ...]:
        """Returns the dilation of each axis."""
        return self.dilations or (1,) * rank

    def extents(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """Returns what a window covers of each axis, its gaps included."""
        return tuple((k - 1) * d + 1 for k, d in zip(kernel, self.spacings(len(kernel)), strict=True))

    def padding(self, sizes: Sequence[int], kernel: Sequence[int]) -> Pads:
        """Returns what is added to an input of these spatial sizes."""
        if self.auto_pad.startswith("SAME"):
            each = zip(sizes, self.extents(kernel), self.steps(len(kernel)), strict=True)
            totals = (max(0, (-(-size // step) - 1) * step + extent - size) for size, extent, step in each)
            return halves(totals, more_first=self.auto_pad == "SAME_LOWER")
        if self.auto_pad == "VALID" or not self.pads:
            return ((0, 0),) * len(kernel)
        return tuple(zip(self.pads[: len(kernel)], self.pads[len(kernel) :], strict=True))

    def counts(self, sizes: Sequence[int], kernel: Sequence[int], padding: Pads) -> tuple[int, ...]:
        """Returns how many windows there are along each axis; none begins behind the input."""
        each = zip(sizes, self.extents(kernel), self.steps(len(kernel)), padding, strict=True)
        return tuple(self._count(*axis) for axis in each)

    def _count(self, size: int, extent: int, step: int, pads: tuple[int, int]) -> int:
        free = size + sum(pads) - extent
        if not self.ceil:
            return free // step + 1
        count = -(-free // step) + 1
        return count - 1 if (count - 1) * step >= size + pads[0] else count

    def filling(self, sizes: Sequence[int], kernel: Sequence[int], padding: Pads) -> Pads:
        """Returns the padding with which the last window ends where the padded input does."""
        counts = self.counts(sizes, kernel, padding)
        each = zip(sizes, self.extents(kernel), self.steps(len(kernel)), padding, counts, strict=True)
        return tuple((pads[0], (n - 1) * step + extent - size - pads[0]) for size, extent, step, pads, n in each)


def halves(totals: Iterable[int], *, more_first: bool) -> Pads:
    """Returns each amount in two; of an odd one the larger part lies at the end, unless it should come first."""
    return tuple((t - t // 2, t // 2) if more_first else (t // 2, t - t // 2) for t in totals)


def even(padding: Pads) -> tuple[int, ...] | None:
    """Returns the padding by axis where both sides have the same, and none is cut off, else None."""
    same = all(first == last >= 0 for first, last in padding)
    return tuple(first for first, _ in padding) if same else None


def padded(x: Tensor, padding: Pads, value: Any = 0.0) -> Tensor:
    """Returns x with constant values added to its last axes, or with some cut off."""
    if not any(map(any, padding)):
        return x
    return functional.pad(x, [amount for pads in reversed(padding) for amount in pads], value=value)
