"""ResNet-50 for speed and structure: random weights, but activations in the ranges of a trained network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch_export import export
from torch_networks import ResNet50

SEED = 50


def textures(count: int, seed: int) -> torch.Tensor:
    """Return images of 1/f noise (the spectrum of photographs), float32 N×3×224×224 normalised."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.fft.rfft2(torch.randn(count, 3, 224, 224, generator=generator))
    rows, columns = torch.fft.fftfreq(224)[:, None], torch.fft.rfftfreq(224)[None, :]
    images = torch.fft.irfft2(noise / torch.hypot(rows, columns).clamp(min=1 / 224), s=(224, 224))
    return (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)


def settle(network: nn.Module, batches: int = 3, size: int = 16) -> None:
    """Set every running mean and variance to those of a few batches, as training would have left them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over the batches
    network.train()
    with torch.no_grad():
        for index in range(batches):
            network(textures(size, SEED + index))
    network.eval()


def initialize(network: nn.Module) -> None:
    """Draw the weights as He et al. do, and BatchNormalization's scales and shifts unequal per channel."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)


def build(path: Path, *, keep_batchnorm: bool = True) -> None:
    """Write ResNet-50 to `path` (about 100 MB), the same weights on every call."""
    torch.manual_seed(SEED)
    network = ResNet50()
    initialize(network)
    settle(network)
    export(network, torch.zeros(1, 3, 224, 224), path, keep_batchnorm=keep_batchnorm)
