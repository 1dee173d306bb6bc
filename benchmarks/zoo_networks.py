"""A detector of the YOLOv8 kind (size n), written out here: its library has a licence that few projects can take.

Structure as Ultralytics describe YOLOv8 (2023): C2f blocks, SPPF, a PAN neck, a decoupled head without anchors whose
box distances are distributions (DFL, Li et al. 2020). The output is that of the usual export: N×(4+classes)×cells,
boxes in pixels concatenated with scores in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BINS = 16  # of one box distance, in cells


class Conv(nn.Module):
    """Conv, BatchNormalization, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, N×outputs×H/stride×W/stride."""
        return self.activation(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3×3 convolutions, with a residual add in the backbone and without in the neck."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.first, self.second = Conv(channels, channels, 3), Conv(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shaped as `x`."""
        y = self.second(self.first(x))
        return x + y if self.residual else y


class C2f(nn.Module):
    """Split in two, a chain of bottlenecks on one half, all of its steps concatenated, 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, *, residual: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = Conv(inputs, outputs)
        self.leave = Conv((2 + count) * half, outputs)
        self.chain = nn.ModuleList(Bottleneck(half, residual=residual) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Return N×outputs×H×W."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.chain:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling: three 5×5 max pools in a row, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = Conv(channels, channels // 2), Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled pyramid, shaped as `x`."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class DFL(nn.Module):
    """The expectation of each of four distance distributions: softmax, then a fixed 1×1 convolution with 0..15."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.reset()

    def reset(self) -> None:
        """Write the bins' values into the convolution."""
        self.conv.weight.data[:] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return distances in cells, N×4×cells, from logits N×64×cells."""
        cells = x.shape[2]
        return self.conv(x.view(-1, 4, BINS, cells).transpose(2, 1).softmax(1)).view(-1, 4, cells)


class Head(nn.Module):
    """The decoupled head: boxes and classes of each level, decoded to pixels and scores."""

    def __init__(self, channels: tuple[int, ...], classes: int, size: int) -> None:
        super().__init__()
        box, score = max(16, channels[0] // 4, 4 * BINS), max(channels[0], min(classes, 100))
        self.boxes = nn.ModuleList(self._tower(inputs, box, 4 * BINS) for inputs in channels)
        self.scores = nn.ModuleList(self._tower(inputs, score, classes) for inputs in channels)
        self.dfl = DFL()
        centres, strides = self._grid(size)
        self.register_buffer("centres", centres)
        self.register_buffer("strides", strides)

    @staticmethod
    def _tower(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(Conv(inputs, width, 3), Conv(width, width, 3), nn.Conv2d(width, outputs, 1))

    @staticmethod
    def _grid(size: int) -> tuple[Tensor, Tensor]:
        """Return the cells' centres, 1×2×cells in cells, and the cells' sizes, 1×cells in pixels."""
        centres, strides = [], []
        for stride in (8, 16, 32):
            steps = torch.arange(size // stride) + 0.5
            rows, columns = torch.meshgrid(steps, steps, indexing="ij")
            centres.append(torch.stack((columns, rows)).flatten(1))
            strides.append(torch.full((1, steps.numel() ** 2), float(stride)))
        return torch.cat(centres, 1)[None], torch.cat(strides, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return N×(4+classes)×cells: centre x, centre y, width, height in pixels, then a score in 0..1 per class."""
        merged = [
            torch.cat((box(x), score(x)), 1) for box, score, x in zip(self.boxes, self.scores, levels, strict=True)
        ]
        outputs = merged[0].shape[1]
        flat = torch.cat([level.view(level.shape[0], outputs, -1) for level in merged], 2)
        boxes, scores = flat.split((4 * BINS, outputs - 4 * BINS), 1)
        near, far = self.dfl(boxes).chunk(2, 1)
        low, high = self.centres - near, self.centres + far
        pixels = torch.cat(((low + high) / 2, high - low), 1) * self.strides
        return torch.cat((pixels, scores.sigmoid()), 1)


def upsample(x: Tensor) -> Tensor:
    """Return `x` at twice its height and width, nearest neighbour."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class YoloV8(nn.Module):
    """YOLOv8n (width 0.25, depth 0.33, 3.2 million weights) for square images of a fixed size."""

    def __init__(self, classes: int = 80, size: int = 320) -> None:
        super().__init__()
        self.to_p3 = nn.Sequential(
            Conv(3, 16, 3, 2),
            Conv(16, 32, 3, 2),
            C2f(32, 32, 1, residual=True),
            Conv(32, 64, 3, 2),
            C2f(64, 64, 2, residual=True),
        )
        self.to_p4 = nn.Sequential(Conv(64, 128, 3, 2), C2f(128, 128, 2, residual=True))
        self.to_p5 = nn.Sequential(Conv(128, 256, 3, 2), C2f(256, 256, 1, residual=True), SPPF(256))
        self.up4, self.up3 = C2f(256 + 128, 128), C2f(128 + 64, 64)
        self.down3, self.down4 = Conv(64, 64, 3, 2), Conv(128, 128, 3, 2)
        self.out4, self.out5 = C2f(128 + 64, 128), C2f(256 + 128, 256)
        self.head = Head((64, 128, 256), classes, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's output for N×3×size×size images in 0..1."""
        p3 = self.to_p3(images)
        p4 = self.to_p4(p3)
        p5 = self.to_p5(p4)
        n4 = self.up4(torch.cat((upsample(p5), p4), 1))
        n3 = self.up3(torch.cat((upsample(n4), p3), 1))
        n4 = self.out4(torch.cat((self.down3(n3), n4), 1))
        return self.head([n3, n4, self.out5(torch.cat((self.down4(n4), p5), 1))])

    def settle_head(self, prior: float = -5.0) -> None:
        """Restore what random initialisation overwrote: the distances' bins, and scores that are mostly near zero."""
        self.head.dfl.reset()
        for tower in self.head.scores:
            nn.init.constant_(tower[-1].bias, prior)
