"""Small networks of two kinds that quantization finds hard, trained on Fashion-MNIST within two minutes each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from make_demo import Split, accuracy, batches, read_split
from photos import save
from torch import Tensor, nn
from torch_export import export
from torch_networks import conv_bn

SEED = 5
CALIBRATION_IMAGES, EVALUATION_IMAGES = 128, 2000
CLASSES = 10


class Attention(nn.Module):
    """Self-attention of several heads, its three input projections packed into one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens, shaped as `x`, N×tokens×width."""
        count, tokens, width = x.shape
        packed = self.enter(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        shares = (query * self.scale @ key.transpose(-2, -1)).softmax(-1)
        return self.leave((shares @ value).transpose(1, 2).reshape(count, tokens, width))


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, shaped as `x`."""
        x = x + self.attention(self.before_attention(x))
        return x + self.mlp(self.before_mlp(x))


class FashionVit(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2020) of 4 layers for 28×28 grey images, 49 patches of 4×4."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 50, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return 10 logits for each of N×1×28×28 images in 0..1."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(x.shape[0], -1, -1), patches), 1) + self.positions
        return self.classifier(self.norm(self.layers(tokens))[:, 0])


class SqueezeExcite(nn.Module):
    """Scales every channel by what the means of all channels say (Hu et al., 2018), with HardSigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduce, expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), reduce, nn.ReLU(), expand, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled `x`."""
        return x * self.scale(x)


class MobileBlock(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze-and-excite, project; a residual where shapes allow it."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int, *, late: bool) -> None:
        super().__init__()
        activation = nn.Hardswish if late else nn.ReLU
        self.body = nn.Sequential(
            conv_bn(inputs, hidden, 1, activation=activation),
            conv_bn(hidden, hidden, kernel, stride, hidden, activation=activation),
            *([SqueezeExcite(hidden)] if late else []),
            conv_bn(hidden, outputs, 1, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, N×C×H×W."""
        return x + self.body(x) if self.residual else self.body(x)


class FashionMobileNetV3(nn.Module):
    """A small MobileNetV3 (Howard et al., 2019) for 28×28 grey images."""

    # hidden channels, channels, kernel, stride, with squeeze-and-excite and HardSwish
    BLOCKS = (
        (16, 16, 3, 2, False), (64, 24, 3, 1, False), (72, 24, 3, 1, False),
        (96, 40, 5, 2, True), (160, 40, 5, 1, True), (160, 48, 5, 1, True),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        blocks, inputs = [], 16
        for hidden, outputs, kernel, stride, late in self.BLOCKS:
            blocks.append(MobileBlock(inputs, hidden, outputs, kernel, stride, late=late))
            inputs = outputs
        stem = conv_bn(1, 16, activation=nn.Hardswish)
        self.features = nn.Sequential(stem, *blocks, conv_bn(inputs, 192, 1, activation=nn.Hardswish))
        self.classifier = nn.Sequential(nn.Linear(192, 256), nn.Hardswish(), nn.Linear(256, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return 10 logits for each of N×1×28×28 images in 0..1."""
        pooled = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(pooled, 1))


@dataclass(frozen=True)
class Recipe:
    """A network, its peak learning rate and for how many passes it trains."""

    network: Callable[[], nn.Module]
    rate: float
    epochs: int


RECIPES = {
    "fashion_vit": Recipe(FashionVit, 2e-3, 2),
    "fashion_mobilenet_v3": Recipe(FashionMobileNetV3, 8e-3, 2),
}


def train(recipe: Recipe, split: Split) -> nn.Module:
    """Return the network, fitted by AdamW with one cycle of the learning rate; always the same on one machine."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order, whatever else runs
    network, (images, labels) = recipe.network().train(), map(torch.from_numpy, split)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=0.05)
    steps = recipe.epochs * len(list(batches(images[:, :, :1, :1], labels, torch.Generator())))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps, pct_start=0.2)
    started = time.monotonic()
    for epoch in range(recipe.epochs):
        for batch, target in batches(images, labels, generator):
            loss = nn.functional.cross_entropy(network(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"  epoch {epoch + 1}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def build(name: str, folder: Path, cache: Path) -> None:
    """Write NAME.onnx and NAME_{calib,eval}.npz: `image`, and `labels` to evaluate."""
    training, test = (read_split(folder, split) for split in ("train", "t10k"))
    network = train(RECIPES[name], training)
    print(f"  accuracy {accuracy(network, test):.4f} on all test images", flush=True)
    images, labels = (part[:EVALUATION_IMAGES] for part in test)
    save(cache / f"{name}_eval.npz", image=images, labels=labels)
    save(cache / f"{name}_calib.npz", image=training[0][:CALIBRATION_IMAGES])
    example = torch.zeros(1, 1, 28, 28)
    export(network, example, cache / f"{name}.onnx", keep_batchnorm=False, names=("image", "logits"))
