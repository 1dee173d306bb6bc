"""What a detector of the YOLOv8 kind found, from its output N×(4+classes)×cells; in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOWEST_SCORE, HIGHEST_OVERLAP, SAME = 0.25, 0.5, 0.5  # score and IoU to keep a detection, IoU to be the same as another
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """Detections or articles of one image: corners in pixels, M×4, and classes, M; the surest first."""

    corners: Floats
    classes: NDArray[np.int64]


def overlaps(box: Floats, others: Floats) -> Floats:
    """Return the IoU of one box (4) with others (M×4), given as corners."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return np.asarray(common / np.maximum(areas - common, 1e-9), np.float32)


def detections(output: Floats) -> Detections:
    """Return what one image's output, (4+classes)×cells, holds: boxes sure enough, of one class no two that overlap."""
    scores, classes = output[4:].max(0), output[4:].argmax(0)
    cells = np.flatnonzero(scores >= LOWEST_SCORE)
    cells = cells[np.argsort(-scores[cells], kind="stable")]
    middle, half = output[:2, cells].T, output[2:4, cells].T / 2
    corners, found = np.concatenate((middle - half, middle + half), 1), classes[cells]
    kept: list[int] = []
    for index in range(len(cells)):
        rivals = [other for other in kept if found[other] == found[index]]
        if not rivals or overlaps(corners[index], corners[rivals]).max() <= HIGHEST_OVERLAP:
            kept.append(index)
    return Detections(corners[kept], found[kept])


def matches(found: Detections, wanted: Detections) -> int:
    """Return how many of `wanted` are found, of the same class and each by another detection."""
    free, count = np.ones(len(wanted.classes), bool), 0
    for corners, label in zip(found.corners, found.classes, strict=True):
        candidates = np.flatnonzero(free & (wanted.classes == label))
        shared = overlaps(corners, wanted.corners[candidates])
        if len(shared) and shared.max() >= SAME:
            free[candidates[shared.argmax()]] = False
            count += 1
    return count


def f1(found: list[Detections], wanted: list[Detections]) -> float:
    """Return 2·matches / (found + wanted) over all images, 1 where both are empty."""
    total = sum(len(one.classes) for one in (*found, *wanted))
    return 2 * sum(map(matches, found, wanted)) / total if total else 1.0
