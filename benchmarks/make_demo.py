"""Trains the demo network on Fashion-MNIST and writes what `quantonnx.demo` ships.

    python benchmarks/make_demo.py DATASET [--out DIR] [--epochs N]

DATASET is the folder with the four idx files (`*-ubyte.gz`), such as `fetch_models.py fashion` leaves.
Five epochs take about five minutes on two cores. Same seed, same machine, same versions: same weights.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch_export import export

SEED = 7
BATCH = 128
PEAK_RATE = 0.2
CALIBRATION_IMAGES, EVALUATION_IMAGES = 128, 1000
DEMO = Path(__file__).resolve().parent.parent / "quantonnx" / "demo"
Split = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a residual add before the last ReLU; a 1×1 shortcut where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        changes = stride != 1 or inputs != outputs
        projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else nn.Identity()
        self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs)) if changes else projection

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, N×C×H×W."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DemoNetwork(nn.Module):
    """A residual CNN of 214,000 parameters for 28×28 grey images."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(1, 48, 3, 1, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(ResidualBlock(48, 48), ResidualBlock(48, 48), ResidualBlock(48, 96, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return 10 logits for each of N×1×28×28 images in 0..1."""
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of a gzipped idx file of bytes."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def read_split(folder: Path, name: str) -> Split:
    """Return images, float32 N×1×28×28 in 0..1, and labels, int64 N, of `train` or `t10k`."""
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)


def batches(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one shuffled epoch, every image mirrored with a chance of one half."""
    for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
        mirrored = torch.rand(len(chosen), 1, 1, 1, generator=generator) < 0.5
        batch = images[chosen]
        yield torch.where(mirrored, batch.flip(3), batch), labels[chosen]


def train(network: nn.Module, split: Split, epochs: int) -> None:
    """Fit `network` by SGD with one cycle of the learning rate."""
    images, labels = torch.from_numpy(split[0]), torch.from_numpy(split[1])
    generator = torch.Generator().manual_seed(SEED)
    steps = epochs * -(-len(images) // BATCH)
    weights = network.parameters()
    optimizer = torch.optim.SGD(weights, lr=PEAK_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for epoch in range(epochs):
        started = time.monotonic()
        for batch, target in batches(images, labels, generator):
            loss = nn.functional.cross_entropy(network(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, {seconds:.0f} s", flush=True)


def accuracy(network: nn.Module, split: Split) -> float:
    """Return the top-1 accuracy in float32."""
    network.eval()
    with torch.no_grad():
        scores = torch.cat([network(part) for part in torch.from_numpy(split[0]).split(500)])
    return float((scores.argmax(1).numpy() == split[1]).mean())


def write(network: nn.Module, train_split: Split, test_split: Split, out: Path) -> None:
    """Write the model, calibration images of the training split and labelled ones of the test split."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    export(network, torch.zeros(1, 1, 28, 28), out / "model.onnx", names=("image", "logits"))
    np.savez_compressed(out / "calibration.npz", image=train_split[0][:CALIBRATION_IMAGES])
    images, labels = (part[:EVALUATION_IMAGES] for part in test_split)
    np.savez_compressed(out / "evaluation.npz", image=images, labels=labels)


def main() -> None:
    """Train, measure on the 10,000 test images, write."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    train_split, test_split = (read_split(arguments.dataset, name) for name in ("train", "t10k"))
    network = DemoNetwork()
    train(network, train_split, arguments.epochs)
    print(f"test accuracy {accuracy(network, test_split):.4f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(network, train_split, test_split, arguments.out)


if __name__ == "__main__":
    main()
