"""The networks that the benchmarks export, written out here so that a fresh machine needs no model library.

Parameter names follow the published weight files, so that `load_state_dict` takes them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> nn.Sequential:
    """Return Conv, BatchNormalization and, unless it is None, the activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    tail = [] if activation is None else [activation()]
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *tail)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, and a residual add where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [conv_bn(inputs, hidden, kernel=1)]
        depthwise = conv_bn(hidden, hidden, stride=stride, groups=hidden)
        self.conv = nn.Sequential(*expand, depthwise, *conv_bn(hidden, outputs, kernel=1, activation=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, N×C×H×W."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1.0 (Sandler et al., 2018), with torchvision's parameter names."""

    # expansion, channels, blocks, stride of the first block
    STAGES = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 32, stride=2), *self._blocks(), conv_bn(320, 1280, kernel=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def _blocks(self) -> Iterator[nn.Module]:
        inputs = 32
        for expansion, channels, count, stride in self.STAGES:
            for index in range(count):
                yield InvertedResidual(inputs, channels, 1 if index else stride, expansion)
                inputs = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return 1000 logits for each of N×3×224×224 images."""
        pooled = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(pooled, 1))


class SamePad(nn.Module):
    """Pads as TensorFlow's SAME does for an even input: at stride 2 the odd pixel is bottom right."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        total = kernel - stride
        self.pad = nn.ZeroPad2d((total // 2, total - total // 2) * 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the padded tensor."""
        return self.pad(x)


def lite_norm(channels: int) -> nn.BatchNorm2d:
    """Return the BatchNormalization that EfficientNet's weights were trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class LiteBlock(nn.Module):
    """EfficientNet-Lite's block: expand, depthwise behind a Pad, project; no squeeze-and-excite."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands, self.residual = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = lite_norm(hidden)
        self.pad = SamePad(kernel, stride)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = lite_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = lite_norm(outputs)
        self.relu6 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, N×C×H×W."""
        y = self.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.relu6(self._bn1(self._depthwise_conv(self.pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with the parameter names of the efficientnet-lite-pytorch package."""

    # expansion, channels, blocks, stride of the first block, kernel
    STAGES = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.pad = SamePad(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = lite_norm(32)
        self._blocks = nn.Sequential(*self._make_blocks())
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = lite_norm(1280)
        self._fc = nn.Linear(1280, 1000)
        self.relu6 = nn.ReLU6()

    def _make_blocks(self) -> Iterator[nn.Module]:
        inputs = 32
        for expansion, channels, count, stride, kernel in self.STAGES:
            for index in range(count):
                yield LiteBlock(inputs, channels, kernel, 1 if index else stride, expansion)
                inputs = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return 1000 logits for each of N×3×224×224 images."""
        x = self.relu6(self._bn0(self._conv_stem(self.pad(x))))
        x = self.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Bottleneck(nn.Module):
    """ResNet's bottleneck block; the 3×3 convolution carries the stride (v1.5)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        reduce = conv_bn(inputs, width, 1, activation=nn.ReLU)
        middle = conv_bn(width, width, 3, stride, activation=nn.ReLU)
        self.body = nn.Sequential(reduce, middle, conv_bn(width, outputs, 1, activation=None))
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride, activation=None) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, N×4·width×H×W."""
        return self.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 v1.5 (He et al., 2015): 53 convolutions, 16 residual adds, one classifier."""

    STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first block

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(*self._make_blocks())
        self.classifier = nn.Linear(2048, 1000)

    def _make_blocks(self) -> Iterator[nn.Module]:
        inputs = 64
        for width, count, stride in self.STAGES:
            for index in range(count):
                yield Bottleneck(inputs, width, 1 if index else stride)
                inputs = 4 * width

    def forward(self, x: Tensor) -> Tensor:
        """Return 1000 logits for each of N×3×224×224 images."""
        pooled = nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.classifier(torch.flatten(pooled, 1))
