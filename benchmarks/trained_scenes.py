"""Scenes to detect things in: Fashion-MNIST's articles, tinted and scaled, pasted on textured backgrounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from zoo_feeds import smooth

SIZE = 160
FEWEST, MOST = 2, 6  # articles a scene
SMALLEST, LARGEST = 28, 72  # longer side of an article, in pixels
MOST_COVERED = 0.25  # of an article's box, by the box of another
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Scenes:
    """Images, uint8 N×3×SIZE×SIZE; corners in pixels, float32 N×MOST×4; classes, int64 N×MOST, −1 where none."""

    images: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


def background(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a coloured texture, SIZE×SIZE×3, about 0..1."""
    texture = smooth(rng, 3, SIZE, SIZE).transpose(1, 2, 0)
    return (rng.uniform(0.25, 0.75, 3) + rng.uniform(0.02, 0.1) * texture).astype(np.float32)


def tight(article: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a 28×28 article without its empty border."""
    rows, columns = np.flatnonzero(article.max(1) > 24), np.flatnonzero(article.max(0) > 24)
    return article[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place(shape: tuple[int, int], taken: list[Array], rng: np.random.Generator) -> Array | None:
    """Return corners for an article of height and width `shape` that hide little of the others, None if not found."""
    height, width = shape
    for _ in range(10):
        left, top = rng.integers(0, SIZE - width + 1), rng.integers(0, SIZE - height + 1)
        box = np.array([left, top, left + width, top + height], np.float32)
        if all(covered(box, other) < MOST_COVERED for other in taken):
            return box
    return None


def covered(first: Array, second: Array) -> float:
    """Return how much of the smaller of two boxes the other one covers."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    areas = [np.prod(box[2:] - box[:2]) for box in (first, second)]
    return float(np.prod(np.maximum(sides, 0)) / min(areas))


def paste(canvas: Array, article: npt.NDArray[np.uint8], box: Array, rng: np.random.Generator) -> None:
    """Draw an article, in a tint of its own, on the canvas."""
    left, top, right, bottom = box.astype(int)
    scaled = Image.fromarray(article).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    grey = np.asarray(scaled, np.float32)[..., None] / 255
    tint = rng.uniform(0.5, 1.0, 3) * (0.35 + 0.65 * grey)
    opaque = np.clip(grey * 8, 0, 1)
    part = canvas[top:bottom, left:right]
    part[:] = part * (1 - opaque) + tint * opaque


def scenes(articles: npt.NDArray[np.uint8], labels: Array, count: int, rng: np.random.Generator) -> Scenes:
    """Return `count` scenes of articles drawn from uint8 M×28×28, whose classes are `labels`."""
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    boxes = np.zeros((count, MOST, 4), np.float32)
    classes = np.full((count, MOST), -1, np.int64)
    for index in range(count):
        canvas, taken = background(rng), []
        for chosen in rng.integers(0, len(articles), rng.integers(FEWEST, MOST + 1)):
            article = tight(articles[chosen])
            longest = rng.uniform(SMALLEST, LARGEST) / max(article.shape)
            height, width = (max(8, round(side * longest)) for side in article.shape)
            if (box := place((height, width), taken, rng)) is not None:
                paste(canvas, article, box, rng)
                boxes[index, len(taken)], classes[index, len(taken)] = box, labels[chosen]
                taken.append(box)
        noisy = canvas * 255 + rng.normal(0, 4, canvas.shape)
        images[index] = noisy.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return Scenes(images, boxes, classes)
