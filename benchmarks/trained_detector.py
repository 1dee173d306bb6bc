"""Trains the YOLOv8 of zoo_networks.py on scenes of Fashion-MNIST's articles.

Positives are the cells near an article's centre, on the level of its size; a score's target is the overlap of the
box that its cell predicts (Zhang et al., VarifocalNet, 2021); boxes learn by GIoU and DFL as in YOLOv8.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from make_demo import read_split
from photos import save
from torch import Tensor, nn
from torch.nn import functional
from torch_export import export
from trained_scenes import SIZE, Scenes, scenes
from zoo_networks import BINS, YoloV8

SEED = 11
STEPS, BATCH, PEAK_RATE = 900, 16, 3e-3
CALIBRATION_SCENES, EVALUATION_SCENES = 64, 200
KINDS = (0, 1, 3, 5, 7, 8, 9)  # of Fashion-MNIST; pullover, coat and shirt look too much like each other
STRIDES = (8, 16, 32)
LEVELS = (0.0, 40.0, 56.0, 1e9)  # an article whose longer side is between the first two belongs to stride 8, and so on
RADIUS = 1.5  # cells around the centre
SCORE_WEIGHT, BOX_WEIGHT, DFL_WEIGHT = 2.0, 5.0, 1.0


def cells() -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells' centres in pixels (cells×2), their strides and the sides of the articles they are for."""
    centres, strides, sides = [], [], []
    for stride, (low, high) in zip(STRIDES, pairwise(LEVELS), strict=True):
        steps = (torch.arange(SIZE // stride) + 0.5) * stride
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        centres.append(torch.stack((columns, rows), -1).flatten(0, 1))
        strides += [float(stride)] * steps.numel() ** 2
        sides += [(low, high)] * steps.numel() ** 2
    return torch.cat(centres), torch.tensor(strides), torch.tensor(sides)


def assign(boxes: Tensor, classes: Tensor, grid: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return for each image and cell the index of its article, −1 for none: N×cells."""
    centres, strides, sides = grid
    middle, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    offset = (centres[None, None] - middle[:, :, None]).abs()
    reach = torch.minimum(RADIUS * strides[None, None, :, None], extent[:, :, None] / 2)
    longest = extent.amax(-1)[..., None]
    fits = (longest >= sides[:, 0]) & (longest < sides[:, 1]) & (classes >= 0)[..., None]
    distance = offset.sum(-1).masked_fill(~(fits & (offset < reach).all(-1)), torch.inf)
    nearest, article = distance.min(1)
    return article.masked_fill(nearest.isinf(), -1)


def giou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalized IoU (Rezatofighi et al., 2019) of boxes given as corners, M×4 each."""
    sides = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(min=0)
    hull = (torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])).prod(1)
    common = sides.prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - common
    overlap = common / (union + 1e-6)
    return overlap, overlap - (hull - union) / (hull + 1e-6)


def distribution_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Return the distribution focal loss of M×4×BINS logits for distances in cells, M×4 (Li et al., 2020)."""
    target = distances.clamp(0, BINS - 1.01)
    low = target.long()
    share = target - low
    scored = functional.log_softmax(logits, -1)
    picked = [scored.gather(-1, (low + step)[..., None])[..., 0] for step in (0, 1)]
    return -((1 - share) * picked[0] + share * picked[1]).mean()


class Loss:
    """The detector's loss; it listens to what enters the DFL block, for boxes and scores come out decoded."""

    def __init__(self, network: YoloV8) -> None:
        self.network, self.grid = network, cells()
        self.logits = torch.empty(0)
        network.head.dfl.register_forward_pre_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.logits = inputs[0]

    def __call__(self, images: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
        """Return the loss of a batch: images N×3×S×S in 0..1, corners N×A×4, classes N×A."""
        found = self.network(images).transpose(1, 2)
        article = assign(boxes, classes, self.grid)
        image, cell = (article >= 0).nonzero(as_tuple=True)
        chosen = article[image, cell]
        wanted = boxes[image, chosen]
        middle, extent = found[image, cell, :4].split(2, 1)
        overlap, general = giou(torch.cat((middle - extent / 2, middle + extent / 2), 1), wanted)
        scores = torch.zeros_like(found[..., 4:])
        scores[image, cell, classes[image, chosen]] = overlap.detach().clamp(min=0)
        positives = max(len(image), 1)
        score_loss = functional.binary_cross_entropy(found[..., 4:], scores, reduction="sum") / positives
        box_loss = (1 - general).sum() / positives
        return (
            SCORE_WEIGHT * score_loss
            + BOX_WEIGHT * box_loss
            + DFL_WEIGHT * distribution_loss(self._bins(image, cell), self._distances(wanted, cell))
        )

    def _bins(self, image: Tensor, cell: Tensor) -> Tensor:
        """Return the logits of the positives' distances, M×4×BINS."""
        return self.logits.transpose(1, 2)[image, cell].view(-1, 4, BINS)

    def _distances(self, wanted: Tensor, cell: Tensor) -> Tensor:
        """Return the positives' distances to their box's sides, M×4 in cells."""
        centres, strides = self.grid[0][cell], self.grid[1][cell][:, None]
        return torch.cat((centres - wanted[:, :2], wanted[:, 2:] - centres), 1) / strides


def tensors(batch: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """Return images in 0..1, boxes and classes as tensors."""
    return torch.from_numpy(batch.images) / 255, torch.from_numpy(batch.boxes), torch.from_numpy(batch.classes)


def articles(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the articles of KINDS, uint8 M×28×28, and for each its index in KINDS."""
    images, labels = read_split(folder, split)
    chosen = np.isin(labels, KINDS)
    return (images[chosen, 0] * 255).round().astype(np.uint8), np.searchsorted(KINDS, labels[chosen])


def train(folder: Path, steps: int = STEPS) -> YoloV8:
    """Return the detector, trained for `steps` batches of fresh scenes."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    rng, (images, labels) = np.random.default_rng(SEED), articles(folder, "train")
    network = YoloV8(classes=len(KINDS), size=SIZE)
    network.settle_head()
    loss_of = Loss(network.train().to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([w for w in network.parameters() if w.requires_grad], PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    for step in range(1, steps + 1):
        loss = loss_of(*tensors(scenes(images, labels, BATCH, rng)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step}/{steps}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval().to(memory_format=torch.contiguous_format)


def build(folder: Path, cache: Path) -> None:
    """Write yolo_scenes.onnx and yolo_scenes_{calib,eval}.npz: `images`, and `boxes` and `classes` to evaluate."""
    network = train(folder)
    images, labels = articles(folder, "t10k")
    for part, count, seed in (("calib", CALIBRATION_SCENES, 1), ("eval", EVALUATION_SCENES, 2)):
        drawn = scenes(images, labels, count, np.random.default_rng((SEED, seed)))
        truth = {} if part == "calib" else {"boxes": drawn.boxes, "classes": drawn.classes}
        save(cache / f"yolo_scenes_{part}.npz", images=drawn.images.astype(np.float32) / np.float32(255), **truth)
    example = torch.zeros(1, 3, SIZE, SIZE)
    export(network, example, cache / "yolo_scenes.onnx", keep_batchnorm=False, names=("images", "output0"))
