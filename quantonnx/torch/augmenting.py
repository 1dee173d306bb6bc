"""Images varied at random, so that few of them teach more."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.batches import Batch, mapped

_SMALLEST_PART = 0.4
"""Of an image's area that a zoomed one shows."""


def augmented(batch: Batch, way: str, generator: torch.Generator) -> Batch:
    """Returns a batch in which images, values of four axes, are mirrored with a chance of one half (`flip`), and moved
    by up to an eighth of their sides too, their edges mirrored outwards (`shift`), or shown in part, from two fifths
    of the area on, and half of them mixed with another one (`mix`: Zhang et al., "mixup: Beyond Empirical Risk
    Minimization", ICLR 2018; for students of a teacher Beyer et al., "Knowledge distillation: A good teacher is patient
    and consistent", CVPR 2022)."""
    if way == "none":
        return batch
    return mapped(batch, lambda value: _augmented(value, way, generator))


def _augmented(images: Tensor, way: str, generator: torch.Generator) -> Tensor:
    if images.ndim != 4 or not images.is_floating_point():
        return images
    across = 2 if images.shape[3] <= 4 < images.shape[1] else 3  # channels last, or first
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(across), images)
    if way == "shift":
        return torch.stack([_moved(image, across - 1, generator) for image in images])
    if way == "mix":
        first = images if across == 3 else images.permute(0, 3, 1, 2)
        images = _mixed(_zoomed(first, generator), generator)
        return images if across == 3 else images.permute(0, 2, 3, 1)
    return images


def _zoomed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns [N, C, H, W] with a part of each image in the whole size."""
    area = torch.empty(len(images)).uniform_(_SMALLEST_PART, 1, generator=generator)
    side = area.sqrt()
    moves = (1 - side) * torch.empty(2, len(images)).uniform_(-1, 1, generator=generator)
    zero = torch.zeros_like(side)
    rows = torch.stack([side, zero, moves[0]], 1), torch.stack([zero, side, moves[1]], 1)
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid.to(images), align_corners=False, padding_mode="border")


def _mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images of which about half have a random part of the next one of the batch."""
    part = torch.rand(len(images), 1, 1, 1, generator=generator)
    alone = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    part = torch.where(alone, torch.ones(()), part).to(images)
    return part * images + (1 - part) * images.roll(1, 0)


def _moved(image: Tensor, across: int, generator: torch.Generator) -> Tensor:
    for axis in (across - 1, across):
        size = image.shape[axis]
        reach = min(size // 8, size - 1)
        by = int(torch.randint(-reach, reach + 1, (), generator=generator))
        index = torch.arange(size).add(by).abs()
        image = image.index_select(axis, torch.where(index < size, index, 2 * (size - 1) - index))
    return image
